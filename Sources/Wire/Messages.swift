#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

extension FrameChannel {
    /// Sends a message as JSON.
    ///
    /// - Throws: ``FrameError``.
    public func send(_ message: some Encodable) throws {
        try send(Frame(.message, MessageCoding.encode(message)))
    }
}

/// How messages become bytes: JSON with sorted keys; unknown keys are ignored, so that both sides may grow.
public enum MessageCoding {
    /// Encodes a message.
    public static func encode(_ message: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(message))
    }

    /// Decodes a message that somebody else wrote.
    ///
    /// - Throws: `DecodingError`.
    public static func decode<Message: Decodable>(_ type: Message.Type, from bytes: [UInt8]) throws -> Message
    {
        try JSONDecoder().decode(type, from: Data(bytes))
    }
}
