import Basics
import Registry
import Testing
import Wire

@testable import Coordinator

@Suite struct RunWatchTests {
    private let run = RunID.make(timestamp: "20260101-000000")

    private func epochs(_ losses: [(training: Double, validation: Double)]) -> [EpochMetrics] {
        losses.enumerated().map { number, loss in
            EpochMetrics(
                run: run,
                epoch: number + 1,
                step: 10 * (number + 1),
                trainLoss: loss.training,
                valLoss: loss.validation,
                time: 0
            )
        }
    }

    private func spec(_ model: TypedSpec = TypedSpec(type: "simple_cnn")) -> RunSpec {
        RunSpec(
            name: "r",
            model: model,
            epochs: 20,
            batch: 64,
            lanes: 2,
            optimizer: TypedSpec(type: "adamw", parameters: ["weight_decay": .number(0.01)]),
            schedule: TypedSpec(type: "constant")
        )
    }

    @Test func validationThatRisesWhileTrainingFallsIsOverfitting() {
        let losses = [(1.0, 1.1), (0.8, 0.9), (0.6, 0.8), (0.5, 0.85), (0.4, 0.9), (0.3, 0.99)]
        #expect(RunWatch.advice(on: epochs(Array(losses.prefix(5))), spec: spec()) == nil)
        let advice = RunWatch.advice(on: epochs(losses), spec: spec())
        #expect(
            advice
                == "overfitting: since epoch 3 the validation loss rose from 0.8 to 0.99 while the training loss fell from 0.6 to "
                + "0.3; `early_stop: { patience: 3 }` would end such a run; `augment: [ crop, flip ]` makes more of the images, "
                + "where mirrored ones are alike; `weight_decay: 0.05` in the optimizer; a smaller model, or more samples"
        )
    }

    @Test func noiseAndDivergenceAreNone() {
        for losses in [
            [(1.0, 1.1), (0.8, 0.9), (0.7, 0.92), (0.6, 0.91), (0.5, 0.93)],
            [(1.0, 1.1), (0.8, 0.9), (0.9, 1.3), (1.1, 1.5), (1.5, 2)],
            [(1.0, 1.1), (0.8, 0.9), (0.6, 1.3), (0.5, 0.89), (0.4, 1.2)],
            [], [(1.0, 1.0)],
        ] {
            #expect(RunWatch.advice(on: epochs(losses), spec: spec()) == nil, "\(losses)")
        }
    }

    @Test func onlyWhatTheRunDoesNotDoIsSuggested() {
        var careful = spec(TypedSpec(type: "vit_tiny", parameters: ["dropout": .number(0.1)]))
        careful.earlyStop = EarlyStopSpec(patience: 2)
        careful.augment = [TypedSpec(type: "flip")]
        careful.optimizer.parameters["weight_decay"] = .number(0.1)
        #expect(RunWatch.suggestions(careful) == ["a smaller model, or more samples"])
        let text = spec(TypedSpec(type: "gpt", parameters: ["dropout": .integer(0)]))
        #expect(RunWatch.suggestions(text).contains("`dropout: 0.1` in the model"))
        #expect(!RunWatch.suggestions(text).contains { $0.contains("augment") })
    }

    @Test func reportsBecomeWords() {
        let spike = TrainerReport.spike(
            step: 31,
            epoch: 5,
            loss: 9.25,
            usual: 0.5,
            lanes: [1],
            samples: ["ab", "cd"]
        )
        #expect(
            RunWatch.words(spike, member: 0, host: "a")?.message
                == "step 31 (epoch 5): the loss 9.25 is far above the usual 0.5, in lane 1; samples ab, cd"
        )
        let plan = TrainerReport.memory(bytes: 1, way: "1 lane at a time", summary: "2.0 MB (data 1.0 MB)")
        #expect(
            RunWatch.words(plan, member: 2, host: "a")?.message
                == "trainer 2 on a: 2.0 MB (data 1.0 MB) planned, 1 lane at a time"
        )
        #expect(RunWatch.words(.joined(generation: 1, repeats: false), member: 0, host: "a") == nil)
    }
}
