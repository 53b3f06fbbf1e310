import Basics
import Wire

@testable import Serving

/// A small dense model whose outputs are computed here a second time, in double.
struct ToyModel {
    static let features = 4
    static let classes = ["ant", "bee", "cat"]
    static let bias = [0.1, 0.2, 0.3]

    /// Multiplies all weights.
    var scale = 1.0

    var signature: ModelSignature {
        ModelSignature(
            model: TypedSpec(type: "linear"),
            inputShape: [Self.features],
            classes: Self.classes,
            mean: [0.5],
            deviation: [2]
        )
    }

    func weight(_ output: Int, _ input: Int) -> Double {
        scale * Double(1 + output * Self.features + input) / 10
    }

    func logits(_ inputs: [Double]) -> [Double] {
        stride(from: 0, to: inputs.count, by: Self.features).flatMap { start in
            Self.classes.indices.map { output in
                (0..<Self.features).reduce(Self.bias[output]) {
                    $0 + weight(output, $1) * (inputs[start + $1] - 0.5) / 2
                }
            }
        }
    }

    /// Writes the three files of a version.
    ///
    /// - Parameter wrong: added to the recorded logits.
    func write(to folder: String, wrong: Double = 0) throws {
        try Files.createDirectory(folder)
        let weights = Self.classes.indices.flatMap { o in (0..<Self.features).map { weight(o, $0) } }
        let shape = [Self.classes.count, Self.features]
        try Files.writeAtomically(
            Self.safetensors([("fc1.weight", shape, weights), ("fc1.bias", [Self.classes.count], Self.bias)]),
            to: "\(folder)/model.safetensors"
        )
        try Files.writeAtomically(try MessageCoding.encode(signature), to: "\(folder)/model.json")
        let inputs: [Double] = [1, 2, 3, 4, 0, -1, 0, 1]
        try Files.writeAtomically(
            Self.safetensors([
                ("inputs", [2, Self.features], inputs),
                ("logits", [2, Self.classes.count], logits(inputs).map { $0 + wrong }),
                ("labels", [2], [2, 0]),
            ]),
            to: "\(folder)/golden.safetensors"
        )
    }

    /// A file of float32 tensors.
    static func safetensors(_ tensors: [(name: String, shape: [Int], values: [Double])]) -> [UInt8] {
        var data: [UInt8] = []
        var entries: [String] = []
        for (name, shape, values) in tensors {
            let start = data.count
            data += RawValues.bytes(values.map { Float($0) })
            entries.append(
                "\"\(name)\":{\"dtype\":\"F32\",\"shape\":\(shape),\"data_offsets\":[\(start),\(data.count)]}"
            )
        }
        var header = Array("{\(entries.joined(separator: ","))}".utf8)
        header += [UInt8](repeating: 0x20, count: (8 - header.count % 8) % 8)
        return RawValues.bytes([UInt64(header.count)]) + header + data
    }
}
