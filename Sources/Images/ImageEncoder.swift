internal import CImages

/// Pixels into files: what tests and benchmarks need to make images of their own.
package enum ImageEncoder {
    /// A baseline JPEG; four channels are taken for CMYK.
    package static func jpeg(
        _ pixels: [UInt8],
        width: Int,
        height: Int,
        channels: Int,
        quality: Int = 95
    )
        -> [UInt8]
    {
        make(pixels.count) {
            coord_image_encode_jpeg(
                pixels,
                UInt32(width),
                UInt32(height),
                Int32(channels),
                Int32(quality),
                $0,
                $1
            )
        }
    }

    /// A PNG of 8 or 16 bits a channel; two and four channels end with alpha.
    package static func png(
        _ pixels: [UInt8],
        width: Int,
        height: Int,
        channels: Int,
        bits: Int = 8
    )
        -> [UInt8]
    {
        make(pixels.count) {
            coord_image_encode_png(
                pixels,
                UInt32(width),
                UInt32(height),
                Int32(channels),
                Int32(bits),
                $0,
                $1
            )
        }
    }

    private static func make(_ size: Int, _ body: (UnsafeMutablePointer<UInt8>?, Int) -> Int) -> [UInt8] {
        let capacity = 2 * size + 65536
        return [UInt8](unsafeUninitializedCapacity: capacity) { target, count in
            count = body(target.baseAddress, capacity)
        }
    }
}
