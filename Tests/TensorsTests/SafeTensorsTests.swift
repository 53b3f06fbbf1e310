import Basics
import Tensors
import Testing

@Suite struct SafeTensorsTests {
    private func sample() -> [UInt8] {
        let z: [Float] = [1.5]
        let w: [Float] = [1, 2, 3, 4, 5, 6]
        return z.withUnsafeBufferPointer { z in
            w.withUnsafeBufferPointer { w in
                SafeTensors.write([
                    SafeTensors.Tensor(name: "z", shape: [1], floats: z),
                    SafeTensors.Tensor(name: "fc1.weight", shape: [2, 3], floats: w),
                    SafeTensors.Tensor(name: "labels", shape: [2], integers: [7, -1]),
                ])
            }
        }
    }

    /// A file of a header text and data.
    private func file(_ header: String, data: Int, padding: Bool = true) -> [UInt8] {
        var text = Array(header.utf8)
        while padding && text.count % 8 != 0 { text.append(0x20) }
        return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
            + [UInt8](repeating: 0, count: data)
    }

    @Test func theBytesAreThoseOfTheReferenceWriter() throws {
        let expected =
            #"{"__metadata__":{"format":"pt"},"labels":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"#
            + #""fc1.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[16,40]},"#
            + #""z":{"dtype":"F32","shape":[1],"data_offsets":[40,44]}}"#
        let bytes = sample()
        let length = Int(bytes[0]) | Int(bytes[1]) << 8
        #expect(length % 8 == 0)
        let header = String(decoding: bytes[8..<(8 + length)], as: UTF8.self)
        #expect(header.trimmingSuffix(" ") == expected)
        #expect(bytes.count == 8 + length + 44)
    }

    @Test func whatIsWrittenIsRead() throws {
        let read = try SafeTensors(reading: sample())
        #expect(read.names == ["labels", "fc1.weight", "z"])
        #expect(try read.floats("fc1.weight", shape: [2, 3]) == [1, 2, 3, 4, 5, 6])
        #expect(try read.integers("labels") == [7, -1])
        #expect(throws: TensorsError.self) { try read.floats("fc1.weight", shape: [3, 2]) }
        #expect(throws: TensorsError.self) { try read.floats("labels") }
        #expect(throws: TensorsError.self) { try read.floats("missing") }
        #expect(SafeTensors.write(read.tensors) == sample())
    }

    @Test func aFileWithoutTensorsIsAFile() throws {
        let read = try SafeTensors(reading: SafeTensors.write([]))
        #expect(read.tensors.isEmpty)
    }

    @Test func everyTruncationIsRefused() {
        let bytes = sample()
        for count in 0..<bytes.count {
            #expect(throws: TensorsError.self) { try SafeTensors(reading: Array(bytes[..<count])) }
        }
        #expect(throws: TensorsError.self) { try SafeTensors(reading: bytes + [0]) }
    }

    @Test(arguments: [
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8),  // a hole
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4),  // the size is not the shape's
        (#"{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, 0),  // overflows
        (
            #"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4
        ),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4),
        (#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#, 4),
        (#"{"__metadata__":{"n":1}}"#, 0),
        (#"[1]"#, 0),
        (#"{"a":"#, 0),
        (#" {}"#, 0),
    ])
    func aHeaderThatLiesIsRefused(header: String, data: Int) {
        #expect(throws: TensorsError.self) { try SafeTensors(reading: file(header, data: data)) }
    }

    @Test func aHeaderLargerThanTheLimitIsRefusedBeforeItIsRead() {
        var bytes = sample()
        bytes.replaceSubrange(0..<8, with: [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])
        #expect(throws: TensorsError.self) { try SafeTensors(reading: bytes) }
        var limits = SafeTensors.Limits()
        limits.tensors = 2
        #expect(throws: TensorsError.self) { try SafeTensors(reading: sample(), limits: limits) }
    }
}

extension String {
    fileprivate func trimmingSuffix(_ character: Character) -> String {
        var text = self
        while text.last == character { text.removeLast() }
        return text
    }
}
