import Basics
import GRDB
import Testing

@testable import Registry

/// A registry in a folder of its own, gone at the end of the test.
final class Scratch {
    let directory: String
    let path: String
    let registry: Registry

    init() throws {
        directory = try Files.makeTemporaryDirectory(prefix: "registry")
        path = "\(directory)/\(Registry.fileName)"
        registry = try Registry(path: path, access: .readWrite)
    }

    deinit {
        try? registry.close()
        try? Files.remove(directory)
    }
}

/// A folder that a child process writes to, gone at the end of the test.
func withDirectory<Value>(_ body: (String) throws -> Value) throws -> Value {
    let directory = try Files.makeTemporaryDirectory(prefix: "registry")
    defer { try? Files.remove(directory) }
    return try body(directory)
}

func runID(_ text: String) throws -> RunID { try #require(RunID(text)) }

func digest(_ number: Int) -> Digest { Digest(of: "\(number)") }

func makeRun(
    _ id: String,
    name: String = "digits",
    created: Double = 1,
    parent: RunParent? = nil
) throws -> RunRow {
    RunRow(id: try runID(id), name: name, fileText: "cluster: home", created: created, parent: parent)
}

func makeCheckpoint(
    _ number: Int,
    run: RunID,
    step: Int? = nil,
    accuracy: Double? = nil,
    loss: Double? = nil,
    state: CheckpointState = .saved
) -> CheckpointRow {
    CheckpointRow(
        manifest: digest(number),
        run: run,
        epoch: number,
        step: step ?? number * 10,
        state: state,
        isHome: state == .saved,
        metrics: CheckpointMetrics(valAccuracy: accuracy, valLoss: loss),
        weights: digest(1000 + number),
        size: ByteCount(100),
        created: Double(number),
        hosts: ["local"]
    )
}

func makeStep(_ step: Int, run: RunID, loss: Double? = 0.5) -> StepMetrics {
    StepMetrics(
        run: run,
        step: step,
        epoch: step / 10,
        loss: loss,
        accuracy: 0.25,
        learningRate: 0.002,
        samples: 64,
        seconds: 0.01,
        time: Double(step)
    )
}

/// The code of the ``RegistryError`` that `body` throws.
func refusal(_ body: () throws -> Void) throws -> RegistryError {
    try #require(throws: RegistryError.self) { try body() }
}
