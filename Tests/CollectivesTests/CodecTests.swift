import Basics
import CShims
import Testing

@testable import Collectives

/// Codecs alone: what survives, what is lost, and what strangers can do.
@Suite
struct CodecTests {
    static let codecs: [PayloadCodec] = [
        .exact, .bf16, .int8, .topK(fraction: 1.0 / 64), .topK(fraction: 0.3), .topK(fraction: 1),
    ]

    private func encode(_ codec: PayloadCodec, _ values: [Float]) -> (bytes: [UInt8], left: [Float]) {
        var bytes = [UInt8](repeating: 0xA5, count: codec.maximumByteCount(of: values.count) + 16)
        var left = [Float](repeating: .nan, count: values.count)
        let written = bytes.withUnsafeMutableBytes { bytes in
            bytes.baseAddress.map { codec.encode(values, count: values.count, into: $0, left: &left) } ?? 0
        }
        #expect(written <= codec.maximumByteCount(of: values.count))
        #expect(
            bytes[written...].allSatisfy { $0 == 0xA5 } || written < codec.maximumByteCount(of: values.count)
        )
        #expect(bytes.suffix(16) == ArraySlice(repeating: 0xA5, count: 16))
        return (Array(bytes[..<written]), left)
    }

    private func decode(_ codec: PayloadCodec, _ bytes: [UInt8], _ count: Int) -> [Float]? {
        var values = [Float](repeating: .nan, count: count + 1)
        values[count] = 12345
        let isSound = bytes.withUnsafeBytes { codec.decode($0, into: &values, count: count) }
        #expect(values[count] == 12345)
        return isSound ? Array(values[..<count]) : nil
    }

    private func gaussian(_ count: Int, seed: UInt64 = 1) -> [Float] {
        (0..<count).map { laneValue(seed, 3, $0) }
    }

    @Test(arguments: codecs, [0, 1, 2, 15, 16, 255, 256, 257, 1000, 16_384])
    func whatArrivesAndWhatIsLeftIsTheInput(codec: PayloadCodec, count: Int) throws {
        let values = gaussian(count)
        let (bytes, left) = encode(codec, values)
        let decoded = try #require(decode(codec, bytes, count))
        for index in values.indices {
            if case .int8 = codec {
                #expect(abs(decoded[index] + left[index] - values[index]) <= abs(values[index]) * 0x1p-22)
            } else {
                #expect(decoded[index] + left[index] == values[index])
            }
        }
    }

    @Test
    func bf16KeepsWhatItCanRepresentAndRoundsTiesToEven() throws {
        let exact: [Float] = [
            0, -0.0, 1, -1, 1.5, 0x1.FEp127, -0x1.02p-126, 0x1p-133, .infinity, -.infinity,
        ]
        let kept = try #require(decode(.bf16, encode(.bf16, exact).bytes, exact.count))
        #expect(kept.map(\.bitPattern) == exact.map(\.bitPattern))
        let (bytes, _) = encode(.bf16, [0x1.01p0, 0x1.03p0, 0x1.010002p0, .greatestFiniteMagnitude, .nan])
        let rounded = try #require(decode(.bf16, bytes, 5))
        #expect(rounded[0..<4] == [1, 0x1.04p0, 0x1.02p0, .infinity])
        #expect(rounded[4].isNaN)
        for signalling: UInt32 in [0x7F80_0001, 0xFFFF_FFFF] {
            let (bytes, _) = encode(.bf16, [Float(bitPattern: signalling)])
            let decoded = try #require(decode(.bf16, bytes, 1))
            #expect(decoded[0].isNaN)
        }
        let values = gaussian(5000)
        for (a, b) in zip(values, try #require(decode(.bf16, encode(.bf16, values).bytes, 5000))) {
            #expect(abs(a - b) <= abs(a) * 0x1p-8)
        }
    }

    @Test
    func int8IsWithinHalfAStepOfEachBlocksLargest() throws {
        let values = gaussian(5000)
        let decoded = try #require(decode(.int8, encode(.int8, values).bytes, 5000))
        for start in stride(from: 0, to: 5000, by: 256) {
            let block = start..<min(5000, start + 256)
            let largest = values[block].map(abs).max() ?? 0
            for index in block { #expect(abs(values[index] - decoded[index]) <= largest / 127 * 0.50001) }
        }
        // Multiples of the step survive: blocks of whole numbers with a 127 among them.
        let whole = (0..<512).map { Float($0 % 255 - 127) }
        #expect(decode(.int8, encode(.int8, whole).bytes, 512) == whole)
    }

    @Test
    func int8PoisonsABlockThatIsNotFiniteAndForgetsOneThatIsTooSmall() throws {
        var values = [Float](repeating: 1, count: 768)
        values[100] = .nan
        values[300] = -.infinity
        for index in 512..<768 { values[index] = 0x1p-101 }
        let (bytes, left) = encode(.int8, values)
        let decoded = try #require(decode(.int8, bytes, 768))
        #expect(decoded[..<512].allSatisfy { $0.isNaN })
        #expect(decoded[512...].allSatisfy { $0 == 0 })
        #expect(left[512...].allSatisfy { $0 == 0x1p-101 })
    }

    @Test
    func topKTakesTheLargestAndOfEqualsTheFirst() throws {
        let codec = PayloadCodec.topK(fraction: 0.5)
        let values: [Float] = [1, -3, 0, 3, 1, 1, -1, 2]
        let (bytes, left) = encode(codec, values)
        #expect(decode(codec, bytes, 8) == [1, -3, 0, 3, 0, 0, 0, 2])
        #expect(left == [0, 0, 0, 0, 1, 1, -1, 0])
        // NaN and infinities are always among what travels.
        let odd: [Float] = [1, .nan, 2, -.infinity]
        let arrived = try #require(decode(codec, encode(codec, odd).bytes, 4))
        #expect(arrived[1].isNaN && arrived[3] == -.infinity && arrived[0] == 0 && arrived[2] == 0)
        for fraction in [0.001, 1.0 / 64, 0.5] {
            let values = gaussian(16_384, seed: 9)
            let codec = PayloadCodec.topK(fraction: fraction)
            let kept = try #require(decode(codec, encode(codec, values).bytes, 16_384))
            let expected = Set(
                values.indices.sorted { (abs(values[$0]), $1) > (abs(values[$1]), $0) }
                    .prefix(codec.keptCount(of: 16_384))
            )
            for index in values.indices {
                #expect(kept[index] == (expected.contains(index) ? values[index] : 0))
            }
        }
    }

    @Test(arguments: [0, 1, 2])
    func everyVariantGivesTheBitsOfThePortableOne(variant: Int32) {
        guard variant <= coord_codec_variant() else { return }
        for count in [1, 7, 64, 255, 256, 257, 4099] {
            var values = gaussian(count, seed: UInt64(count))
            if count > 300 { (values[3], values[270]) = (.infinity, .nan) }
            for isWide in [true, false] {
                func run(_ variant: Int32) -> ([UInt8], [UInt32], [UInt32]) {
                    var bytes = [UInt8](repeating: 0, count: 2 * count + 64)
                    var left = [Float](repeating: 0, count: count)
                    var decoded = left
                    if isWide {
                        coord_bf16_encode(variant, values, count, &bytes, &left)
                        coord_bf16_decode(variant, bytes, count, &decoded)
                    } else {
                        coord_int8_encode(variant, values, count, &bytes, &left)
                        coord_int8_decode(variant, bytes, count, &decoded)
                    }
                    return (bytes, left.map(\.bitPattern), decoded.map(\.bitPattern))
                }
                let (a, b) = (run(0), run(variant))
                #expect(a.0 == b.0 && a.1 == b.1 && a.2 == b.2)
            }
        }
    }

    @Test(arguments: codecs)
    func strangersBytesAreRefusedOrReadWithinBounds(codec: PayloadCodec) {
        var generator = SplitMix(77)
        let values = gaussian(1000)
        let (sound, _) = encode(codec, values)
        #expect(decode(codec, Array(sound.dropLast()), 1000) == nil)
        #expect(decode(codec, sound + [0], 1000) == nil)
        #expect(decode(codec, [], 1000) == nil)
        for _ in 0..<2000 {
            var bytes = sound
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: bytes.indices, using: &generator)] = UInt8.random(
                    in: 0...255,
                    using: &generator
                )
            }
            _ = decode(codec, bytes, 1000)  // the guard value behind the target is looked at there
        }
    }

    @Test
    func topKRefusesIndicesOutOfRangeAndLongForms() {
        let codec = PayloadCodec.topK(fraction: 0.2)  // 2 of 10
        func bytes(_ gaps: [UInt8]) -> [UInt8] { gaps + [UInt8](repeating: 0, count: 8) }
        #expect(decode(codec, bytes([0, 8]), 10) != nil)
        #expect(decode(codec, bytes([0, 9]), 10) == nil)
        #expect(decode(codec, bytes([10, 0]), 10) == nil)
        #expect(decode(codec, bytes([9, 0]), 10) == nil)
        #expect(decode(codec, bytes([0x80, 0x00, 0]), 10) == nil)
        #expect(decode(codec, bytes([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]), 10) == nil)
        #expect(decode(codec, bytes([0xFF, 0xFF, 0xFF, 0xFF]), 10) == nil)
        #expect(decode(codec, bytes([0, 0, 0]), 10) == nil)
    }
}
