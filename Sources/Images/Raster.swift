internal import CImages

/// How an image of another shape is brought to the shape that is asked for.
public enum ImageFit: String, Hashable, Sendable, Codable, CaseIterable {
    /// Scaled until it covers the shape, then cut to its middle.
    case crop
    /// Scaled in each direction by itself.
    case stretch
}

/// Pixels: rows of pixels, the channels of a pixel side by side.
public struct Raster: Hashable, Sendable {
    /// Pixels in a row.
    public let width: Int
    /// Rows.
    public let height: Int
    /// 1 or 3.
    public let channels: Int
    /// `[height × width × channels]`.
    public let pixels: [UInt8]

    /// - Precondition: as many bytes as the sides ask for.
    public init(width: Int, height: Int, channels: Int, pixels: [UInt8]) {
        precondition(
            pixels.count == width * height * channels,
            "\(pixels.count) bytes for \(width)x\(height)x\(channels)"
        )
        self.width = width
        self.height = height
        self.channels = channels
        self.pixels = pixels
    }

    /// The image in another shape.
    ///
    /// Scaling averages over all that falls into a pixel (Pillow's BILINEAR, to the bit); for `crop` the sides and the
    /// cut are torchvision's `Resize` and `CenterCrop`.
    public func fitted(width: Int, height: Int, _ fit: ImageFit) -> Raster {
        guard self.width != width || self.height != height else { return self }
        switch fit {
        case .stretch: return scaled(width, height)
        case .crop:
            // The side that is relatively shorter fits, the other one is cut.
            let isWide = self.width * height >= self.height * width
            let scaled = scaled(
                isWide ? max(width, self.width * height / self.height) : width,
                isWide ? height : max(height, self.height * width / self.width)
            )
            return scaled.cut(
                x: Int((Double(scaled.width - width) / 2).rounded(.toNearestOrEven)),
                y: Int((Double(scaled.height - height) / 2).rounded(.toNearestOrEven)),
                width: width,
                height: height
            )
        }
    }

    /// One plane after the other: `[channels, height, width]`.
    public func planes() -> [UInt8] {
        guard channels > 1 else { return pixels }
        let size = width * height
        return [UInt8](unsafeUninitializedCapacity: pixels.count) { target, count in
            pixels.withUnsafeBufferPointer { source in
                for channel in 0..<channels {
                    for place in 0..<size {
                        target[channel * size + place] = source[place * channels + channel]
                    }
                }
            }
            count = pixels.count
        }
    }

    private func scaled(_ width: Int, _ height: Int) -> Raster {
        guard self.width != width || self.height != height else { return self }
        var status: Int32 = 0
        let result = [UInt8](unsafeUninitializedCapacity: width * height * channels) { target, count in
            status = coord_image_scale(
                pixels,
                Int32(self.width),
                Int32(self.height),
                Int32(channels),
                target.baseAddress,
                Int32(width),
                Int32(height)
            )
            count = width * height * channels
        }
        precondition(status == 0, "no memory to scale \(self.width)x\(self.height) to \(width)x\(height)")
        return Raster(width: width, height: height, channels: channels, pixels: result)
    }

    private func cut(x: Int, y: Int, width: Int, height: Int) -> Raster {
        var result: [UInt8] = []
        result.reserveCapacity(width * height * channels)
        for row in y..<(y + height) {
            let start = (row * self.width + x) * channels
            result += pixels[start..<(start + width * channels)]
        }
        return Raster(width: width, height: height, channels: channels, pixels: result)
    }
}
