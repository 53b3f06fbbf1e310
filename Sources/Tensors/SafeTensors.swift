#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// A safetensors file: named tensors behind a JSON header, little-endian, row-major.
///
/// The writer is deterministic: the same tensors give the same bytes. The reader trusts nothing: sizes are checked
/// before they are used, and the tensors must tile the data exactly.
///
/// - Source: huggingface/safetensors, `safetensors/src/tensor.rs`.
public struct SafeTensors: Sendable {
    /// What a tensor's elements are.
    public enum ElementType: String, Sendable, CaseIterable {
        /// 64-bit integers.
        case i64 = "I64"
        /// Double precision.
        case f64 = "F64"
        /// Single precision.
        case f32 = "F32"
        /// 32-bit integers.
        case i32 = "I32"
        /// Bytes.
        case u8 = "U8"

        /// Bytes in one element.
        public var size: Int {
            switch self {
            case .i64, .f64: 8
            case .f32, .i32: 4
            case .u8: 1
            }
        }

        /// The order of types in a file: larger elements first, so that each is aligned.
        fileprivate var order: Int { Self.allCases.firstIndex(of: self) ?? 0 }
    }

    /// One tensor.
    public struct Tensor: Sendable, Equatable {
        /// The name, as in a PyTorch state dict (`conv1.weight`).
        public var name: String
        /// What its elements are.
        public var type: ElementType
        /// The shape; empty for a single number.
        public var shape: [Int]
        /// The elements, little-endian, row-major.
        public var bytes: [UInt8]

        /// All fields.
        public init(name: String, type: ElementType, shape: [Int], bytes: [UInt8]) {
            self.name = name
            self.type = type
            self.shape = shape
            self.bytes = bytes
        }

        /// A tensor of single-precision numbers.
        public init(name: String, shape: [Int], floats: UnsafeBufferPointer<Float>) {
            self.init(name: name, type: .f32, shape: shape, bytes: Array(UnsafeRawBufferPointer(floats)))
        }

        /// A tensor of 64-bit integers.
        public init(name: String, shape: [Int], integers: [Int64]) {
            self.init(name: name, type: .i64, shape: shape, bytes: integers.withUnsafeBytes { Array($0) })
        }
    }

    /// What the reader accepts.
    public struct Limits: Sendable {
        /// Bytes of the header.
        public var headerBytes = 1 << 20
        /// Number of tensors.
        public var tensors = 10_000
        /// Dimensions of one tensor.
        public var dimensions = 8

        /// The defaults: 1 MiB of header, 10,000 tensors, 8 dimensions.
        public init() {}
    }

    /// The tensors in the order of the file.
    public let tensors: [Tensor]
    private let index: [String: Int]

    /// The names in the order of the file.
    public var names: [String] { tensors.map(\.name) }

    // MARK: Writing

    /// The bytes of a file with these tensors.
    ///
    /// Header entries and data are ordered by element size, then name; the header is padded to 8 bytes; the only
    /// metadata is `{"format":"pt"}`.
    /// - Precondition: names are unique and sizes fit the shapes.
    public static func write(_ tensors: [Tensor]) -> [UInt8] {
        let sorted = tensors.sorted { ($0.type.order, $0.name) < ($1.type.order, $1.name) }
        var header = #"{"__metadata__":{"format":"pt"}"#
        var offset = 0
        for tensor in sorted {
            let end = offset + tensor.bytes.count
            precondition(
                tensor.shape.reduce(tensor.type.size, *) == tensor.bytes.count,
                "\(tensor.name): shape \(tensor.shape) does not fit \(tensor.bytes.count) bytes"
            )
            header += ",\(quoted(tensor.name)):{\"dtype\":\"\(tensor.type.rawValue)\",\"shape\":["
            header += tensor.shape.map(String.init).joined(separator: ",")
            header += "],\"data_offsets\":[\(offset),\(end)]}"
            offset = end
        }
        header += "}"
        var text = Array(header.utf8)
        while text.count % 8 != 0 { text.append(0x20) }
        var file: [UInt8] = []
        file.reserveCapacity(8 + text.count + offset)
        withUnsafeBytes(of: UInt64(text.count).littleEndian) { file.append(contentsOf: $0) }
        file += text
        for tensor in sorted { file += tensor.bytes }
        return file
    }

    private static func quoted(_ name: String) -> String {
        var text = "\""
        for scalar in name.unicodeScalars {
            switch scalar {
            case "\"", "\\": text += "\\\(scalar)"
            case "\u{0}"..<" ":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text + "\""
    }

    // MARK: Reading

    /// Reads a file that somebody else may have written.
    ///
    /// - Throws: ``TensorsError`` `.badFile` naming what is wrong.
    public init(reading file: [UInt8], limits: Limits = Limits()) throws {
        guard file.count >= 8 else { throw Self.bad("\(file.count) bytes are no file") }
        let length = file[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(limits.headerBytes), Int(length) <= file.count - 8 else {
            throw Self.bad("header of \(length) bytes in a file of \(file.count)")
        }
        let start = 8 + Int(length)
        guard length > 0, file[8] == 0x7B else { throw Self.bad("the header is not a JSON object") }
        let header: Header
        do {
            header = try JSONDecoder().decode(Header.self, from: Data(file[8..<start]))
        } catch {
            throw Self.bad("the header can't be read")
        }
        guard header.entries.count <= limits.tensors else {
            throw Self.bad("\(header.entries.count) tensors, at most \(limits.tensors) are allowed")
        }
        var tensors: [Tensor] = []
        var next = 0
        let ordered = header.entries.sorted {
            ($0.value.begin, $0.value.end, $0.key) < ($1.value.begin, $1.value.end, $1.key)
        }
        for (name, entry) in ordered {
            guard let type = ElementType(rawValue: entry.type) else {
                throw Self.bad("\(name): element type \(entry.type) is not supported")
            }
            guard entry.shape.count <= limits.dimensions else {
                throw Self.bad("\(name): \(entry.shape.count) dimensions")
            }
            var size = type.size
            for dimension in entry.shape {
                let (product, overflow) = size.multipliedReportingOverflow(by: dimension)
                guard dimension >= 0, !overflow else { throw Self.bad("\(name): shape \(entry.shape)") }
                size = product
            }
            guard entry.begin == next, entry.end >= entry.begin, entry.end <= file.count - start,
                entry.end - entry.begin == size
            else {
                throw Self.bad(
                    "\(name): bytes \(entry.begin) to \(entry.end) for shape \(entry.shape), expected from \(next)"
                )
            }
            tensors.append(
                Tensor(
                    name: name,
                    type: type,
                    shape: entry.shape,
                    bytes: Array(file[(start + entry.begin)..<(start + entry.end)])
                )
            )
            next = entry.end
        }
        guard next == file.count - start else {
            throw Self.bad("\(file.count - start - next) bytes behind the last tensor")
        }
        self.tensors = tensors
        index = Dictionary(uniqueKeysWithValues: tensors.enumerated().map { ($1.name, $0) })
    }

    private static func bad(_ what: String) -> TensorsError {
        TensorsError(.badFile, "not a usable safetensors file: \(what)")
    }

    /// The tensor with a name; nil when the file has none.
    public subscript(name: String) -> Tensor? { index[name].map { tensors[$0] } }

    /// Copies a single-precision tensor.
    ///
    /// - Parameter target: `[shape.product]`.
    /// - Throws: ``TensorsError`` `.badTensor` when it is missing or differs in type or shape.
    public func copyFloats(
        _ name: String,
        shape: [Int],
        into target: UnsafeMutableBufferPointer<Float>
    ) throws {
        let tensor = try find(name, .f32, shape)
        UnsafeMutableRawBufferPointer(target).copyBytes(from: tensor.bytes)
    }

    /// A single-precision tensor as an array.
    ///
    /// - Throws: ``TensorsError`` `.badTensor` when it is missing or differs in type or shape.
    public func floats(_ name: String, shape: [Int]? = nil) throws -> [Float] {
        let tensor = try find(name, .f32, shape)
        return [Float](unsafeUninitializedCapacity: tensor.bytes.count / 4) { buffer, count in
            UnsafeMutableRawBufferPointer(buffer).copyBytes(from: tensor.bytes)
            count = tensor.bytes.count / 4
        }
    }

    /// A tensor of 64-bit integers as an array.
    ///
    /// - Throws: ``TensorsError`` `.badTensor` when it is missing or differs in type or shape.
    public func integers(_ name: String, shape: [Int]? = nil) throws -> [Int64] {
        let tensor = try find(name, .i64, shape)
        return [Int64](unsafeUninitializedCapacity: tensor.bytes.count / 8) { buffer, count in
            UnsafeMutableRawBufferPointer(buffer).copyBytes(from: tensor.bytes)
            count = tensor.bytes.count / 8
        }
    }

    private func find(_ name: String, _ type: ElementType, _ shape: [Int]?) throws -> Tensor {
        guard let tensor = self[name] else { throw TensorsError(.badTensor, "there is no tensor \(name)") }
        guard tensor.type == type, shape.map({ $0 == tensor.shape }) ?? true else {
            throw TensorsError(
                .badTensor,
                "\(name) is \(tensor.type.rawValue) \(tensor.shape), not \(type.rawValue) \(shape ?? [])"
            )
        }
        return tensor
    }
}

/// The JSON header: any number of entries by name, and `__metadata__`, whose values must be texts.
private struct Header: Decodable {
    struct Entry: Decodable {
        var type: String
        var shape: [Int]
        var begin: Int
        var end: Int

        enum CodingKeys: String, CodingKey {
            case type = "dtype"
            case shape
            case offsets = "data_offsets"
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            type = try container.decode(String.self, forKey: .type)
            shape = try container.decode([Int].self, forKey: .shape)
            let offsets = try container.decode([Int].self, forKey: .offsets)
            guard offsets.count == 2, offsets[0] >= 0, offsets[1] >= offsets[0] else {
                throw DecodingError.dataCorruptedError(
                    forKey: .offsets,
                    in: container,
                    debugDescription: "two rising offsets"
                )
            }
            begin = offsets[0]
            end = offsets[1]
        }
    }

    struct Name: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    var entries: [String: Entry] = [:]

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Name.self)
        for key in container.allKeys {
            if key.stringValue == "__metadata__" {
                _ = try container.decode([String: String].self, forKey: key)
            } else {
                entries[key.stringValue] = try container.decode(Entry.self, forKey: key)
            }
        }
    }
}
