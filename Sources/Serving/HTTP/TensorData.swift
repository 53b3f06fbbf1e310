/// The element types of the Open Inference Protocol that can become a model's inputs.
enum TensorType: String, Sendable, CaseIterable {
    case bool = "BOOL"
    case uint8 = "UINT8"
    case uint16 = "UINT16"
    case uint32 = "UINT32"
    case uint64 = "UINT64"
    case int8 = "INT8"
    case int16 = "INT16"
    case int32 = "INT32"
    case int64 = "INT64"
    case fp16 = "FP16"
    case fp32 = "FP32"
    case fp64 = "FP64"

    /// Size of one element; unit: bytes.
    var size: Int {
        switch self {
        case .bool, .uint8, .int8: 1
        case .uint16, .int16, .fp16: 2
        case .uint32, .int32, .fp32: 4
        case .uint64, .int64, .fp64: 8
        }
    }

    /// Converts little-endian elements to float32.
    ///
    /// - Precondition: `bytes.count` is a multiple of ``size``.
    func floats(_ bytes: ArraySlice<UInt8>) -> [Float] {
        bytes.withUnsafeBytes { raw in
            func integers<Value: FixedWidthInteger>(_ type: Value.Type) -> [Float] {
                stride(from: 0, to: raw.count, by: size).map {
                    Float(Value(littleEndian: raw.loadUnaligned(fromByteOffset: $0, as: Value.self)))
                }
            }
            func patterns<Value: FixedWidthInteger>(_ type: Value.Type, _ make: (Value) -> Float) -> [Float] {
                stride(from: 0, to: raw.count, by: size).map {
                    make(Value(littleEndian: raw.loadUnaligned(fromByteOffset: $0, as: Value.self)))
                }
            }
            switch self {
            case .bool: return raw.map { $0 == 0 ? 0 : 1 }
            case .uint8: return raw.map { Float($0) }
            case .int8: return integers(Int8.self)
            case .uint16: return integers(UInt16.self)
            case .int16: return integers(Int16.self)
            case .uint32: return integers(UInt32.self)
            case .int32: return integers(Int32.self)
            case .uint64: return integers(UInt64.self)
            case .int64: return integers(Int64.self)
            case .fp16: return patterns(UInt16.self, Self.half)
            case .fp32: return patterns(UInt32.self) { Float(bitPattern: $0) }
            case .fp64: return patterns(UInt64.self) { Float(Double(bitPattern: $0)) }
            }
        }
    }

    /// IEEE 754 binary16 to binary32, exactly.
    private static func half(_ bits: UInt16) -> Float {
        let sign: Float = bits & 0x8000 == 0 ? 1 : -1
        let exponent = Int(bits >> 10 & 0x1F)
        let fraction = Float(bits & 0x3FF)
        if exponent == 31 { return fraction == 0 ? sign * .infinity : .nan }
        if exponent == 0 { return sign * Float(sign: .plus, exponent: -24, significand: 1) * fraction }
        return sign * Float(sign: .plus, exponent: exponent - 25, significand: 1) * (1024 + fraction)
    }
}

/// Raw little-endian copies; every machine that we build for is little-endian.
enum RawValues {
    /// The bytes of an array of numbers.
    static func bytes<Value: BitwiseCopyable>(_ values: [Value]) -> [UInt8] {
        values.withUnsafeBytes { Array($0) }
    }

    /// Numbers from bytes; what is left over is dropped.
    static func values<Value: BitwiseCopyable>(_ type: Value.Type, _ bytes: ArraySlice<UInt8>) -> [Value] {
        let count = bytes.count / MemoryLayout<Value>.size
        return [Value](unsafeUninitializedCapacity: count) { target, filled in
            bytes.withUnsafeBytes { source in
                UnsafeMutableRawBufferPointer(target).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: source[..<(count * MemoryLayout<Value>.size)])
                )
            }
            filled = count
        }
    }
}
