import Basics
import Synchronization
import Testing

@testable import Collectives

/// Whoever can't come to the opening of a generation is found long before its deadline; whoever is late is waited for.
@Suite(.timeLimit(.minutes(1)))
struct LookoutTests {
    private let lanes = [LaneSet([0]), LaneSet([1])]

    /// Member 0 opens a generation; member 1 comes late, or never.
    private func open(
        _ isSilent: @escaping @Sendable (Int) -> Bool,
        lateBy pause: Duration? = nil
    ) throws -> (error: CollectivesError?, took: Duration) {
        let cluster = try TestCluster(2, .tcp)
        defer { cluster.close() }
        let members = cluster.members(lanes)
        let outcome = Mutex<CollectivesError?>(nil)
        let start = ContinuousClock.now
        let took = Mutex(Duration.zero)
        onThreads(2) { [lanes] rank in
            do {
                if rank == 1 {
                    guard let pause else { return }
                    wait(pause)
                }
                let group = try Group.open(
                    endpoint: cluster.endpoints[rank],
                    run: testRun,
                    generation: 1,
                    rank: rank,
                    members: members,
                    laneCount: lanes.count,
                    secret: testSecret,
                    deadline: .now + .seconds(10),
                    isSilent: isSilent
                )
                if rank == 0 { took.withLock { $0 = start.duration(to: .now) } }
                group.close()
            } catch let error as CollectivesError {
                outcome.withLock { $0 = error }
                took.withLock { $0 = start.duration(to: .now) }
            } catch {
                Issue.record(error)
            }
        }
        return (outcome.withLock { $0 }, took.withLock { $0 })
    }

    private func wait(_ duration: Duration) { pause(duration) }

    @Test func aMemberThatSaysNothingIsNotWaitedFor() throws {
        let (error, took) = try open { _ in
            pause(.milliseconds(200))
            return true
        }
        #expect(error?.code == .peerSilent)
        #expect(error?.ranks == [1])
        #expect(took > Lookout.firstLook && took < .seconds(5))
    }

    @Test func aMemberThatIsLateAndLivesIsWaitedFor() throws {
        let (error, took) = try open({ _ in false }, lateBy: .milliseconds(1500))
        #expect(error == nil)
        #expect(took >= .milliseconds(1500))
    }

    // MARK: Asking

    private func council(_ endpoint: Endpoint, knows secret: Bool = true) -> Council {
        let council = Council(endpoint: endpoint, run: testRun) { _, _ in }
        if secret { council.learn(key, secret: testSecret) }
        return council
    }
    private let key = Council.Key(number: 1, mark: 7)

    @Test func aLivingProcessAnswersWhetherItKnowsTheGenerationOrNot() throws {
        let here = try Endpoint(transport: TCPTransport()), there = try Endpoint(transport: TCPTransport())
        defer { [here, there].forEach { $0.close() } }
        let asking = council(here)
        for knows in [true, false] {
            let answering = council(there, knows: knows)
            #expect(!asking.isSilent(at: there.address, for: .seconds(5), asking: key, from: 0))
            withExtendedLifetime(answering) {}
        }
    }

    @Test func aProcessThatReadsNothingIsSilentAndOneThatEndedIsNot() throws {
        let here = try Endpoint(transport: TCPTransport())
        defer { here.close() }
        let asking = council(here)
        // Its kernel takes the connection, as for a process that is stopped.
        let frozen = try TCPTransport().listen(at: "127.0.0.1:0")
        #expect(asking.isSilent(at: frozen.address, for: .milliseconds(400), asking: key, from: 0))
        frozen.close()
        #expect(!asking.isSilent(at: frozen.address, for: .seconds(5), asking: key, from: 0))
    }
}
