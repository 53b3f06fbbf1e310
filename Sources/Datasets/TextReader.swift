internal import Basics

/// Reads a text as samples of a language model: windows of bytes, and the byte after each as its label.
///
/// The vocabulary is the bytes that the text has, in their order; a value is a byte's place in it, and the classes are
/// the bytes' names, so that a sample's next token is a class like any other.
enum TextReader {
    /// Bytes of a sample when nothing else is asked for.
    static let usualLength = 128

    /// - Parameter length: bytes of a sample, T; windows follow one another without overlap, and what fills none is left out.
    /// - Throws: ``DatasetError`` `.badInput` when the text is too short or of one letter; `FileError`.
    static func read(_ path: String, length: Int = usualLength) throws -> SampleTable {
        let bytes = try InputFile.read(path)
        let vocabulary = Set(bytes).sorted()
        let count = (bytes.count - 1) / max(1, length)
        guard length > 0, count >= 2, vocabulary.count >= 2 else {
            throw DatasetError(
                .badInput,
                "\(path): \(bytes.count) bytes of \(vocabulary.count) kinds make no two samples of \(length) bytes",
                hint: "use a longer text, or a smaller --shape"
            )
        }
        var places = [UInt8](repeating: 0, count: 256)
        for (place, byte) in vocabulary.enumerated() { places[Int(byte)] = UInt8(place) }
        var table = SampleTable(
            type: .uint8,
            shape: [length],
            classes: vocabulary.map(name),
            values: bytes[..<(count * length)].map { places[Int($0)] },
            labels: (1...count).map { Int(places[Int(bytes[$0 * length])]) },
            sources: [
                DatasetSource(
                    name: path.split(separator: "/").last.map(String.init) ?? path,
                    sha256: Digest(of: bytes)
                )
            ]
        )
        table.kind = .text
        return table
    }

    /// A letter as it is, anything else by its number: `0x0a`.
    private static func name(_ byte: UInt8) -> String {
        if (0x21...0x7E).contains(byte) { return String(UnicodeScalar(byte)) }
        return "0x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
}
