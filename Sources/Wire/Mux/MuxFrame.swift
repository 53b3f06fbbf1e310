internal import Basics

/// The numbers of the mux protocol, and one frame's head.
///
/// Layout: `docs/formats/mux.md`.
enum MuxFrame {
    enum Kind: UInt8, Sendable {
        case open = 1
        case accept = 2
        case refuse = 3
        case data = 4
        case credit = 5
        case end = 6
        case reset = 7
    }

    /// What each side sends first.
    static let preface = Array("CMUX".utf8) + [1, 0, 0, 0]
    /// Bytes before the payload.
    static let headBytes = 12
    /// The largest payload of a data frame; unit: bytes.
    static let maximumData = 64 << 10
    /// The largest target of a stream, the longest reason; unit: bytes.
    static let maximumText = 512

    /// The head of a frame: kind, three zero bytes, stream, length of the payload.
    static func head(_ kind: Kind, _ stream: UInt32, length: Int) -> [UInt8] {
        var writer = ByteWriter(capacity: headBytes)
        writer.write(kind.rawValue)
        writer.write(raw: [0, 0, 0])
        writer.write(stream)
        writer.write(UInt32(length))
        return writer.bytes
    }

    /// How long a payload of each kind may be.
    static func allows(_ kind: Kind, length: Int) -> Bool {
        switch kind {
        case .open: (4...4 + maximumText).contains(length)
        case .accept, .credit: length == 4
        case .refuse, .reset: length <= maximumText
        case .data: (1...maximumData).contains(length)
        case .end: length == 0
        }
    }
}

/// Why a mux connection can't go on.
public struct MuxError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What kind of failure; new kinds may come.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String {
            case preface, frame, stream, overrun, credit, phase, tooMany, lost
        }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }

        /// The other side does not speak this protocol, or another version of it.
        public static let preface = Code(.preface)
        /// Bytes that are no frame: kind, length, padding.
        public static let frame = Code(.frame)
        /// A frame for a stream that was never opened, or a number that can't be opened.
        public static let stream = Code(.stream)
        /// More data than the receiver had room for.
        public static let overrun = Code(.overrun)
        /// More room was offered than a stream may have.
        public static let credit = Code(.credit)
        /// A frame that makes no sense where the stream stands.
        public static let phase = Code(.phase)
        /// Too many streams at once.
        public static let tooMany = Code(.tooMany)
        /// The connection below ended.
        public static let lost = Code(.lost)

        /// The name of the code.
        public var description: String { kind.rawValue }
    }

    /// What kind of failure.
    public var code: Code
    /// What happened, with the stream's number and sizes.
    public var message: String

    /// A failure in words.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// Code and message.
    public var description: String { "\(code): \(message)" }
}
