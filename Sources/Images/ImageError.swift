public import Basics

/// Why an image could not be read.
public struct ImageError: ExplainedError {
    /// The kind of a failure.
    public enum Code: String, Hashable, Sendable, CaseIterable {
        /// Neither JPEG nor PNG.
        case notAnImage
        /// Cut off, or bytes that make no sense.
        case damaged
        /// More bytes, pixels or a longer side than allowed.
        case tooLarge
        /// Four inks, whose colours only a profile knows.
        case fourInks
        /// Several frames.
        case animated
    }

    /// The kind of the failure.
    public var code: Code
    /// What is wrong with the image; the caller names the file.
    public var message: String
    /// What to do now.
    public var hint: String?

    /// All parts.
    public init(_ code: Code, _ message: String, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    /// 65.
    public var exitCode: ExitCode { .badInput }
}

/// What an image may ask for; looked at before anything is decoded.
public struct ImageLimits: Hashable, Sendable {
    /// The file; unit: bytes.
    ///
    /// A larger one is refused before it is read.
    public var fileBytes: Int
    /// Width times height.
    ///
    /// Decoding takes some four bytes for each.
    public var pixels: Int

    /// 64 MiB, and 64 million pixels.
    public init(fileBytes: Int = 64 << 20, pixels: Int = 64_000_000) {
        self.fileBytes = fileBytes
        self.pixels = pixels
    }
}
