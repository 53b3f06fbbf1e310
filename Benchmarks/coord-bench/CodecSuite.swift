internal import Basics
internal import Collectives
internal import Foundation

/// `codecs`: how fast one thread encodes with error feedback and decodes, beside a copy of the same floats.
///
/// GB/s of floats; medians of interleaved rounds. 1 MiB stays in the cache, 25 MiB does not.
enum CodecSuite {
    static func run() {
        let codecs: [(String, PayloadCodec)] = [
            ("bf16", .bf16), ("int8", .int8), ("topk 1/64", .topK(fraction: 1.0 / 64)),
        ]
        print("size      codec       encode GB/s  decode GB/s  copy GB/s  bytes ÷ 4n")
        for count in [1 << 18, 25 << 18] {
            let piece = 16_384
            let values = UnsafeMutablePointer<Float>.allocate(capacity: count)
            let left = UnsafeMutablePointer<Float>.allocate(capacity: count)
            let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: 9 * count)
            defer {
                values.deallocate()
                left.deallocate()
                bytes.deallocate()
            }
            let random = RandomSource(seed: 1)
            for index in 0..<count {
                let four = random.block(.initialization, layer: 0, position: index)
                values[index] = RandomSource.unit(four[0]) - RandomSource.unit(four[1])
            }
            var times: [String: (encode: [Double], decode: [Double], bytes: Int)] = [:]
            var copies: [Double] = []
            for _ in 0..<15 {
                for (name, codec) in codecs {
                    let stride = codec.maximumByteCount(of: piece)
                    var written: [Int] = []
                    let start = now()
                    for (index, at) in Swift.stride(from: 0, to: count, by: piece).enumerated() {
                        written.append(
                            codec.encode(
                                values + at,
                                count: min(piece, count - at),
                                into: bytes + index * stride,
                                left: left + at
                            )
                        )
                    }
                    let middle = now()
                    for (index, at) in Swift.stride(from: 0, to: count, by: piece).enumerated() {
                        let source = UnsafeRawBufferPointer(
                            start: bytes + index * stride,
                            count: written[index]
                        )
                        precondition(codec.decode(source, into: left + at, count: min(piece, count - at)))
                    }
                    times[name, default: ([], [], 0)].encode.append(middle - start)
                    times[name, default: ([], [], 0)].decode.append(now() - middle)
                    times[name]?.bytes = written.reduce(0, +)
                }
                let start = now()
                left.update(from: values, count: count)
                copies.append(now() - start)
            }
            let gigabytes = Double(4 * count) / 1e9
            for (name, _) in codecs {
                guard let time = times[name] else { continue }
                print(
                    String(
                        format: "%-9@ %-11@ %-12.2f %-12.2f %-10.2f %.4f",
                        "\(count >> 18) MiB" as NSString,
                        name as NSString,
                        gigabytes / median(time.encode),
                        gigabytes / median(time.decode),
                        gigabytes / median(copies),
                        Double(time.bytes) / Double(4 * count)
                    )
                )
            }
        }
    }

    private static func now() -> Double {
        let parts = (ContinuousClock.now - start).components
        return Double(parts.seconds) + Double(parts.attoseconds) * 1e-18
    }
    private static let start = ContinuousClock.now
    private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
}
