internal import Basics
public import ClusterFile
public import Remote
internal import Wire

/// Looks at one host the way `coord up` would, step by step; it makes the host's folder and changes nothing else.
public struct HostDoctor: Sendable {
    private let spec: HostSpec
    private let workspace: Workspace
    private let passphrase: PassphraseSource

    /// Looks at `spec`.
    ///
    /// - Parameter passphrase: asked for that of an encrypted key which is in no agent.
    public init(
        _ spec: HostSpec,
        workspace: Workspace,
        passphrase: @escaping PassphraseSource = { _ in nil }
    ) {
        self.spec = spec
        self.workspace = workspace
        self.passphrase = passphrase
    }

    /// Connects and looks; an unknown host key is a finding, never accepted.
    ///
    /// - Returns: the checks up to the first one behind which nothing can be seen.
    /// - Cost: at most the deadlines of all phases, about 90 s for a host that hangs in each.
    public func examine() -> [DoctorCheck] {
        var findings = Findings(host: spec.name)
        do {
            let endpoint = spec.isLocal ? nil : try workspace.endpoint(spec)
            let host: any Host =
                endpoint.map { SSHHost($0, policy: .strict, passphrase: passphrase) }
                ?? LocalHost(name: spec.name)
            defer { host.close() }
            guard let facts = try look(host, at: endpoint, &findings) else {
                findings.add(
                    "login",
                    "restricted to the bridge: the machine itself cannot be looked at"
                )
                return findings.checks
            }
            judge(facts, &findings)
            agent(facts, host, &findings)
        } catch let error as RemoteError {
            findings.add(error.phase.rawValue, .failed, error.message, remedy: error.hint)
        } catch let error as PodError {
            findings.add("pod", .failed, error.message, remedy: error.hint)
        } catch {
            let explained = error as? any ExplainedError
            findings.add("machine", .failed, explained?.message ?? "\(error)", remedy: explained?.hint)
        }
        return findings.checks
    }

    private var root: String { workspace.agentFolder(of: spec) }

    /// Asks the machine all that is asked; nil when its login runs our bridge and nothing else.
    private func look(
        _ host: any Host,
        at endpoint: SSHEndpoint?,
        _ findings: inout Findings
    ) throws -> HostFacts? {
        let begin = ContinuousClock.now
        // The first command makes the connection, so that the second one's round trip is the clock's error alone.
        _ = try host.run(":")
        let handshake = (ContinuousClock.now - begin) / .milliseconds(1)
        let sent = Machine.unixTime
        let command = HostFacts.quickCommand(root: ShellQuoting.path(root), cluster: workspace.clusterID)
        let result = try HostFacts.ask(command, on: host)
        let end = Machine.unixTime
        findings.add(
            "connection",
            endpoint.map { "\($0.address) in \(Int(handshake)) ms, the key is known, ours is accepted" }
                ?? "this machine"
        )
        if result.text.contains(bridgeSentinel.dropLast()) { return nil }
        var facts = HostFacts()
        facts.take(result.text, begin: sent, end: end)
        let slow = HostFacts.slowCommand(python: ShellQuoting.path(spec.python ?? "python3"))
        if let more = try? HostFacts.ask(slow, on: host) {
            facts.take(more.text, begin: 0, end: 0)
        }
        return facts
    }

    private func judge(_ facts: HostFacts, _ findings: inout Findings) {
        if let obstacle = facts.obstacle(host: spec.name, root: root) {
            let subject = facts.folderProblem == nil ? "machine" : "folder"
            return findings.add(subject, .failed, obstacle.message, remedy: obstacle.hint)
        }
        do {
            let worker = try workspace.worker(facts.triple)
            let isThere = facts.workers.contains("coord-worker-\(worker.digest.short)")
            findings.add(
                "worker",
                "\(facts.machine), worker \(worker.digest.short) "
                    + (isThere ? "is there" : "is not there yet; coord up sends \(worker.size)")
            )
        } catch {
            let explained = error as? any ExplainedError
            findings.add("worker", .failed, explained?.message ?? "\(error)", remedy: explained?.hint)
        }
        let isTight = facts.freeSpace < 1 << 30
        findings.add(
            "folder",
            isTight || facts.isOnNetwork ? .warning : .ok,
            "\(root), \(ByteCount(facts.freeSpace)) free"
                + (facts.fileSystem.isEmpty ? "" : ", \(facts.fileSystem)"),
            remedy: facts.isOnNetwork
                ? "set dir: to a disk of the host's own: over a network locks are unsure, and hosts with one home meet there"
                : isTight ? "make room, or set dir: to a larger disk" : nil
        )
        clock(facts, &findings)
        findings.add("cores", "\(facts.cores) cores, \(ByteCount(facts.memory)) memory")
        if let gpus = facts.gpus, !gpus.isEmpty {
            let names = gpus.map { "\($0.name) (\($0.memoryMiB) MiB, driver \($0.driver))" }
            findings.add("gpus", "\(names.joined(separator: ", ")); the native engine uses none")
        }
        if let python = facts.python {
            findings.add(
                "python",
                "\(python), \(facts.torch.map { "torch \($0)" } ?? "no torch"); not needed"
            )
        }
        if !facts.otherAgents.isEmpty {
            findings.add(
                "other agents",
                .warning,
                facts.otherAgents.joined(separator: ", "),
                remedy: "their trainers share the cores; they are other clusters' and none of ours"
            )
        }
    }

    private func clock(_ facts: HostFacts, _ findings: inout Findings) {
        guard let ahead = facts.clockAhead else { return findings.add("clock", .warning, "it does not tell") }
        let milliseconds = Int((ahead * 1000).rounded())
        let isOff = abs(ahead) > facts.clockError + 2
        findings.add(
            "clock",
            isOff ? .warning : .ok,
            "\(abs(milliseconds)) ms \(ahead < 0 ? "behind" : "ahead of") ours, "
                + "give or take \(Int((facts.clockError * 1000).rounded(.up))) ms",
            remedy: isOff ? "set it (`timedatectl set-ntp true`): times in events would be wrong" : nil
        )
    }

    /// Greets the agent, when one of our build is there.
    private func agent(_ facts: HostFacts, _ host: any Host, _ findings: inout Findings) {
        guard let worker = try? workspace.worker(facts.triple),
            facts.workers.contains("coord-worker-\(worker.digest.short)")
        else { return findings.add("agent", "not running; coord up starts it") }
        let program = "\(root)/bin/coord-worker-\(worker.digest.short)"
        do {
            let socket = try host.openStream(
                "\(ShellQuoting.path(program)) bridge --directory \(ShellQuoting.path(root))"
            )
            let channel = try FrameChannel.afterSentinel(socket: socket, timeoutMilliseconds: 10_000)
            defer { channel.close() }
            let client = try AgentClient(channel: channel, host: spec.name, cluster: workspace.clusterID)
            guard case .status(let status) = try client.call(.status) else { return }
            let working = status.trainers.count { $0.pid != nil }
            findings.add(
                "agent",
                "pid \(status.pid), \(working) trainers at work"
                    + (status.serve?.live.map { ", serves \($0.model)@\($0.version)" } ?? "")
            )
        } catch let error as CoordinatorError {
            findings.add("agent", .warning, error.message, remedy: error.hint ?? "coord up")
        } catch {
            // The bridge found no socket to join: nobody listens.
            findings.add("agent", "not running; coord up starts it")
        }
    }
}
