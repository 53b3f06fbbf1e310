public import Basics

/// Why a model could not be built, trained, saved or loaded.
public struct TrainingError: ExplainedError {
    /// The kind of failure.
    public enum Code: String, Sendable {
        /// A model, optimizer or schedule has a type or a parameter that is not known, or a value out of range.
        case badSpec
        /// The samples do not fit the model or the run.
        case badData
        /// A loss is not a finite number.
        case diverged
        /// A checkpoint is damaged, or belongs to another run record.
        case badCheckpoint
        /// The run would need more memory than there is.
        case noMemory
        /// A model's outputs differ from those that the trainer wrote.
        case goldenMismatch
    }

    /// The kind of failure.
    public var code: Code
    /// What happened, to what.
    public var message: String
    /// What to do now.
    public var hint: String?
    /// How the program ends when nobody handles the error.
    public var exitCode: ExitCode {
        switch code {
        case .badSpec, .badData, .badCheckpoint: .badInput
        case .diverged, .goldenMismatch, .noMemory: .failed
        }
    }

    /// All fields.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }
}
