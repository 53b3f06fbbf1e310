internal import Basics

/// Reads the IDX files of MNIST and its kin: one of images, one of labels, gzip-compressed or not.
///
/// - Source: LeCun, Cortes & Burges, "The MNIST database", file formats: big-endian magic `0 0 type rank`,
///   one 32-bit size a dimension, then the values.
public enum IDXReader {
    /// Reads a pair of files.
    ///
    /// - Parameters:
    ///   - classes: names in label order; nil = "0", "1", … up to the largest label.
    /// - Returns: shape `[1, H, W]` for images of rank 3, `[C, H, W]` for rank 4, `[F]` for rank 2.
    /// - Throws: ``DatasetError`` `.badInput` or `.badLabel` naming the file; `FileError`.
    public static func read(images: String, labels: String, classes: [String]? = nil) throws -> SampleTable {
        let imageBytes = try InputFile.read(images)
        let labelBytes = try InputFile.read(labels)
        let values = try parse(imageBytes, file: images, ranks: 2...4, what: "images")
        let marks = try parse(labelBytes, file: labels, ranks: 1...1, what: "labels")
        guard values.sizes[0] == marks.sizes[0] else {
            throw DatasetError(
                .badInput,
                "\(images) holds \(values.sizes[0]) images, \(labels) holds \(marks.sizes[0]) labels",
                hint: "give two files of one set"
            )
        }
        guard values.sizes[0] > 0 else { throw DatasetError(.badInput, "\(images) holds no samples") }
        let numbers = labelBytes[marks.start...].map { Int($0) }
        let names = classes ?? (0...(numbers.max() ?? 0)).map { "\($0)" }
        if let position = numbers.firstIndex(where: { $0 >= names.count }) {
            throw DatasetError(
                .badLabel,
                "\(labels): label \(numbers[position]) of sample \(position) is outside the \(names.count) "
                    + "classes",
                hint: "correct the label, or add the class"
            )
        }
        let shape = Array(values.sizes.dropFirst())
        return SampleTable(
            type: .uint8,
            shape: shape.count == 2 ? [1] + shape : shape,
            classes: names,
            values: Array(imageBytes[values.start...]),
            labels: numbers,
            sources: [
                DatasetSource(name: Files.name(images), sha256: Digest(of: imageBytes)),
                DatasetSource(name: Files.name(labels), sha256: Digest(of: labelBytes)),
            ]
        )
    }

    /// Finds the pair in a folder: the one file with `idx3` (or `idx4`) in its name, and the one with `idx1`.
    ///
    /// - Parameter prefix: of both names, where a folder holds several pairs: `train`, `t10k`.
    /// - Throws: ``DatasetError`` `.badInput` when there is not exactly one of each.
    public static func pair(in folder: String, prefix: String = "") throws -> (images: String, labels: String)
    {
        let names = try Files.list(folder).filter { $0.hasPrefix(prefix) }
        func only(_ what: String, _ marks: [String]) throws -> String {
            let found = names.filter { name in marks.contains { name.contains($0) } }
            guard found.count == 1, let name = found.first else {
                throw DatasetError(
                    .badInput,
                    "\(folder) holds \(found.count) IDX files of \(what)"
                        + (prefix.isEmpty ? "" : " that start with '\(prefix)'"),
                    hint: found.isEmpty
                        ? "the name of such a file holds \(marks.joined(separator: " or "))"
                        : "name the two files, or a prefix: \(found.joined(separator: ", "))"
                )
            }
            return "\(folder)/\(name)"
        }
        return (try only("images", ["idx3", "idx4"]), try only("labels", ["idx1"]))
    }

    private static func parse(
        _ bytes: [UInt8],
        file: String,
        ranks: ClosedRange<Int>,
        what: String
    ) throws -> (sizes: [Int], start: Int) {
        func refuse(_ text: String, _ hint: String) -> DatasetError {
            DatasetError(.badInput, "\(file): \(text)", hint: hint)
        }
        guard bytes.count >= 4 else {
            throw refuse("truncated: \(bytes.count) bytes are no IDX header", "fetch the file again")
        }
        guard bytes[0] == 0, bytes[1] == 0, bytes[2] == 8, ranks.contains(Int(bytes[3])) else {
            let wanted =
                ranks.count == 1 ? "\(ranks.lowerBound)" : "\(ranks.lowerBound) to \(ranks.upperBound)"
            throw refuse(
                "magic \(Digest.hex(bytes[..<4])) is not that of IDX \(what): 000008 and a rank of \(wanted)",
                "check that this is the file of \(what), and that it is unpacked"
            )
        }
        let rank = Int(bytes[3])
        let start = 4 + 4 * rank
        guard bytes.count >= start else {
            throw refuse(
                "truncated: \(bytes.count) bytes are no IDX header of rank \(rank)",
                "fetch it again"
            )
        }
        let sizes = (0..<rank).map { dimension in
            bytes[(4 + 4 * dimension)..<(8 + 4 * dimension)].reduce(0) { $0 << 8 | Int($1) }
        }
        var expected = 1
        for size in sizes {
            let (product, overflow) = expected.multipliedReportingOverflow(by: size)
            guard !overflow, size > 0 || sizes[0] == 0 else {
                throw refuse("impossible sizes \(sizes)", "fetch the file again")
            }
            expected = product
        }
        guard bytes.count - start == expected else {
            let state = bytes.count - start < expected ? "truncated" : "too long"
            throw refuse(
                "\(state): \(bytes.count - start) bytes of values, the header \(sizes) asks for \(expected)",
                "fetch the file again"
            )
        }
        return (sizes, start)
    }
}
