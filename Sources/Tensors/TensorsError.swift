public import Basics

/// Why numbers could not be computed, read or written.
public struct TensorsError: ExplainedError {
    /// The kind of failure.
    public enum Code: String, Sendable {
        /// This machine or this build of OpenBLAS has not the kernels that were asked for.
        case kernelsUnavailable
        /// OpenBLAS runs other kernels than the run's record says.
        case kernelsDiffer
        /// OpenBLAS does not stay on one thread.
        case threadsDiffer
        /// A safetensors file breaks its format or a limit.
        case badFile
        /// A tensor is missing, or has another shape or type.
        case badTensor
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
        case .badFile, .badTensor: .badInput
        case .kernelsUnavailable, .kernelsDiffer, .threadsDiffer: .failed
        }
    }

    /// All fields.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }
}
