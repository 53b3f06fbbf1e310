public import Basics

/// Why a model could not be served, or a request not be answered.
public struct ServingError: ExplainedError, Equatable {
    /// What kind of failure.
    public enum Code: Sendable, Equatable {
        /// The command line is wrong.
        case usage
        /// A listener that anybody could reach without a token, or an address that is none.
        case badListener
        /// A model folder holds something else than what it should.
        case badModel
        /// A request that can't be understood.
        case badRequest
        /// No such path, model or version.
        case notFound
        /// The path exists, with another method.
        case methodNotAllowed
        /// The body is larger than we take.
        case tooLarge
        /// The body is encoded in a way we don't read.
        case unsupported
        /// The token is missing or wrong.
        case unauthorized
        /// No version is live, or too much is waiting already.
        case notReady
        /// The child that should have answered ended, or stopped taking requests.
        case childGone
        /// Our fault.
        case failed
    }

    /// What kind of failure.
    public var code: Code
    /// What happened, to what.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// A code, words and advice.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// 64, 65 or 1.
    public var exitCode: ExitCode {
        switch code {
        case .usage: .usage
        case .badListener, .badModel: .badInput
        default: .failed
        }
    }

    /// How HTTP says it.
    var httpStatus: Int {
        switch code {
        case .badRequest: 400
        case .unauthorized: 401
        case .notFound: 404
        case .methodNotAllowed: 405
        case .tooLarge: 413
        case .unsupported: 415
        case .notReady, .childGone: 503
        case .usage, .badListener, .badModel, .failed: 500
        }
    }
}
