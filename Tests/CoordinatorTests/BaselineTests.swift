import Basics
import ClusterFile
import Testing

@testable import Coordinator

/// What a complex model has to beat.
@Suite struct BaselineTests {
    @Test func itIsALinearModelOfTheSameSamples() throws {
        let text = """
            cluster: lab
            hosts:
              a: { address: local }
            dataset: photos
            run:
              name: photos
              model: { type: resnet18 }
              epochs: 90
              batch: 64
              lanes: 4
              precision: bf16
              augment: [ flip ]
              sampling: balanced
              split: { validation: 0.3, seed: 5 }
              optimizer: { type: sgd, learning_rate: 0.1 }
              schedule: { type: one_cycle }
            """
        let file = try ClusterFile.parse(text: text, path: "cluster.yaml")
        let run = try #require(file.run)
        let baseline = try #require(file.baseline.run)
        #expect(baseline.model == TypedSpec(type: "linear"))
        #expect(baseline.isBaseline == true)
        #expect(baseline.epochs == 20)
        #expect(baseline.name == "photos-baseline")
        #expect((baseline.batch, baseline.lanes) == (run.batch, run.lanes))
        #expect((baseline.split, baseline.sampling) == (run.split, run.sampling))
        #expect(baseline.augment == nil && baseline.precision == nil && baseline.exchange == nil)
    }

    @Test(arguments: [
        (0.10, 0.960, 0.995, true), (0.10, 0.980, 0.985, false), (0.97, 0.60, 0.96, false),
        (0.10, 0.99, 0.50, false),
    ])
    func aModelEarnsItsPlaceByMoreThanChance(
        majority: Double,
        linear: Double,
        model: Double,
        earnsItsPlace: Bool
    ) {
        let verdict = BaselineVerdict(
            majorityClass: "no",
            majority: majority,
            linear: linear,
            model: model,
            samples: 400
        )
        #expect(verdict.earnsItsPlace == earnsItsPlace)
        #expect(verdict.words("resnet18").contains("does not earn its place") == !earnsItsPlace)
    }
}
