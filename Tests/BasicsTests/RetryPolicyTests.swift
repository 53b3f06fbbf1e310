import Basics
import Testing

@Suite struct RetryPolicyTests {
    private let policy = RetryPolicy(
        first: .milliseconds(200),
        longest: .seconds(10),
        factor: 2,
        jitter: 0.5,
        limit: .seconds(60)
    )

    @Test func pausesGrowToTheLongest() {
        let pauses = (1...8).map { policy.pause(failures: $0, random: 0) }
        #expect(
            pauses
                == [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].map { Duration.milliseconds($0) }
        )
        #expect(policy.pause(failures: 100_000, random: 0) == .seconds(10))
    }

    @Test func chanceShortensAPauseByItsPart() {
        #expect(policy.pause(failures: 3, random: 0.5) == .milliseconds(600))
        for random in stride(from: 0.0, to: 1.0, by: 0.01) {
            let pause = policy.pause(failures: 3, random: random) ?? .zero
            #expect(pause > .milliseconds(400) && pause <= .milliseconds(800))
        }
    }

    @Test func nothingBeginsAfterTheLimit() {
        #expect(policy.pause(failures: 3, elapsed: .seconds(59), random: 0) == .milliseconds(800))
        #expect(policy.pause(failures: 3, elapsed: .milliseconds(59_300), random: 0) == nil)
        #expect(
            RetryPolicy(limit: nil).pause(failures: 9, elapsed: .seconds(86_400), random: 0) == .seconds(10)
        )
    }
}
