import Basics
import CoordTesting
import Remote
import Testing

@testable import Coordinator

/// What is made of the words that a host's shell prints.
@Suite struct HostFactsTests {
    private func facts(_ lines: [String], begin: Double = 100, end: Double = 100.2) -> HostFacts {
        var facts = HostFacts()
        facts.take(lines.joined(separator: "\n"), begin: begin, end: end)
        return facts
    }

    @Test func aContainerHasWhatItsLimitsLeave() {
        let facts = facts([
            "cores\t64", "quota\t250000 100000", "memory\t131072", "limit\t67108864",
        ])
        #expect(facts.cores == 3)
        #expect(facts.memory == 67_108_864)
        let free = self.facts(["cores\t8", "quota\tmax 100000", "memory\t1024", "limit\tmax"])
        #expect(free.cores == 8)
        #expect(free.memory == 1024 * 1024)
    }

    @Test func aClockIsJudgedWithinTheRoundTrip() throws {
        let right = facts(["clock\t100.15"], begin: 100, end: 100.2)
        #expect(right.remarks.isEmpty)
        let wrong = facts(["clock\t3700.1"], begin: 100, end: 100.2)
        #expect(abs(try #require(wrong.clockAhead) - 3600) < 0.01)
        #expect(wrong.remarks == ["its clock is 3600 s ahead of ours"])
        // A shell whose `date` knows no nanoseconds.
        #expect(facts(["clock\t100.%N"]).clockAhead != nil)
        #expect(facts(["clock\t"]).clockAhead == nil)
    }

    @Test(arguments: ["nfs", "nfs4", "smb2", "ceph", "fuse.sshfs"])
    func aFolderOnTheNetworkIsNamedWithTheRemedy(_ kind: String) {
        let facts = facts(["filesystem\t\(kind)"])
        #expect(facts.remarks.count == 1)
        #expect(
            facts.remarks.first?.contains("on \(kind)") == true
                && facts.remarks.first?.contains("set dir:") == true
        )
        #expect(
            facts.obstacle(host: "h", root: "/x")?.message.contains(kind) != true,
            "it works all the same"
        )
    }

    @Test(arguments: ["ext2/ext3", "tmpfs", "xfs", "overlayfs", "UNKNOWN (0x1)", ""])
    func aFolderOnADiskIsNoRemark(_ kind: String) { #expect(facts(["filesystem\t\(kind)"]).remarks.isEmpty) }

    @Test func aMachineThatPrintsForEverIsGivenUp() throws {
        let error = #expect(throws: RemoteError.self) {
            try HostFacts.ask(
                "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
                on: LocalHost()
            )
        }
        #expect(error?.code == .tooMuchOutput)
        let late = #expect(throws: RemoteError.self) {
            try HostFacts.ask("exec sleep 60", on: LocalHost(), timeout: .milliseconds(200))
        }
        #expect(late?.code == .timedOut)
    }

    @Test func othersComeToAHubByWhatMeansSomethingToThem() throws {
        let route = try #require(facts(["route\t10.0.0.9 50000 192.168.1.5 2222"]).route)
        func hub(_ address: String, _ port: UInt16, isDirect: Bool) -> String {
            let place = SSHPlace(address: address, port: port, isDirect: isDirect, keys: [])
            let hub = RouteSurvey.Hub(place, seen: route)
            return "\(hub.address):\(hub.port)"
        }
        #expect(
            hub("203.0.113.7", 40022, isDirect: true) == "203.0.113.7:40022",
            "the port of ~/.ssh/config counts"
        )
        #expect(hub("box.lan", 40022, isDirect: true) == "192.168.1.5:2222")
        #expect(hub("10.1.1.1", 22, isDirect: false) == "192.168.1.5:2222", "behind a jump")
        let old = HostFacts.Route(client: "1.2.3.4", host: "192.168.1.5", port: nil)
        #expect(
            RouteSurvey.Hub(SSHPlace(address: "box", port: 40, isDirect: true, keys: []), seen: old).port
                == 40
        )
    }

    @Test func noiseAndLiesAreLeftOut() {
        let facts = facts([
            "Welcome to the machine!", "memory\t99999999999999999999", "cores\t-3", "free\t/dev/x what",
            "gpu\tRTX 3090, lots, 1", "gpu\tNVIDIA GeForce RTX 3090, 24576, 535.1", "route\t1.2.3.4 5",
            "\t", "unknown\tx",
        ])
        #expect(facts.cores == 0)
        #expect(facts.freeSpace == 0)
        #expect(facts.route == nil)
        #expect(
            facts.gpus == [HostFacts.GPU(name: "NVIDIA GeForce RTX 3090", memoryMiB: 24576, driver: "535.1")]
        )
    }

    @Test func whatKeepsAWorkerFromRunningIsNamed() throws {
        let other = facts(["system\tDarwin", "machine\tarm64"])
        let mac = try #require(other.obstacle(host: "m", root: "~/.coord"))
        #expect(mac.exitCode == .unreachable)
        #expect(mac.message.contains("Darwin"))
        let linux = ["system\tLinux", "machine\tx86_64"]
        #expect(facts(linux).obstacle(host: "a", root: "/x") == nil)
        let locked = facts(linux + ["folder\tmkdir: cannot create directory: Read-only file system"])
        #expect(locked.obstacle(host: "a", root: "/x")?.exitCode == .cannotWrite)
        #expect(locked.obstacle(host: "a", root: "/x")?.hint?.contains("dir:") == true)
        let noexec = facts(linux + ["folder\tnoexec"]).obstacle(host: "a", root: "/x")
        #expect(noexec?.message.contains("noexec") == true)
    }

    @Test(.timeLimit(.minutes(5))) func thisMachineAnswersAllOfIt() throws {
        try withTemporaryDirectory { folder in
            let host = LocalHost()
            let begin = Machine.unixTime
            let root = ShellQuoting.path(folder + "/r")
            let result = try host.run(HostFacts.quickCommand(root: root, cluster: "c"))
            var facts = HostFacts()
            facts.take(result.text, begin: begin, end: Machine.unixTime)
            #expect(facts.obstacle(host: "h", root: folder) == nil)
            #expect(facts.system == "Linux")
            #expect(facts.cores > 0 && facts.memory > 1 << 20 && facts.freeSpace > 0)
            #expect(abs(try #require(facts.clockAhead)) < 5)
            #expect(facts.workers.isEmpty)
            let slow = try host.run(HostFacts.slowCommand(python: "python3"))
            facts.take(slow.text, begin: 0, end: 0)
            #expect(facts.gpus != nil)
        }
    }
}
