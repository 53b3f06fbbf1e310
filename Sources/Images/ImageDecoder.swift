internal import Basics
internal import CImages

/// What the head of an image says.
public struct ImageHead: Hashable, Sendable {
    /// The formats that are read.
    public enum Format: String, Hashable, Sendable {
        /// Joint Photographic Experts Group, baseline or progressive.
        case jpeg
        /// Portable Network Graphics.
        case png
    }
    /// The format, by the file's first bytes and not its name.
    public var format: Format
    /// Width as it is looked at, after turning.
    public var width: Int
    /// Height as it is looked at, after turning.
    public var height: Int
    /// True when there are no colours.
    public var isGrey: Bool
    /// How EXIF asks to turn it, 1 to 8; 1 is not at all.
    public var orientation: Int
}

/// JPEG and PNG files into pixels: the same bits on every machine.
///
/// Grey becomes three equal channels where three are asked for, 16 bits become 8, what is transparent keeps its colour, and
/// EXIF's orientation is obeyed. What cannot be told without guessing is an error: four inks, several frames, a file that
/// is cut off.
public enum ImageDecoder {
    /// Reads the head of an image and checks it against the limits.
    ///
    /// - Throws: ``ImageError``.
    public static func head(
        _ bytes: UnsafeRawBufferPointer,
        limits: ImageLimits = ImageLimits()
    ) throws -> ImageHead {
        let info = try probe(bytes, limits: limits)
        let isTurned = info.orientation >= 5
        return ImageHead(
            format: info.format == Int32(coord_image_jpeg) ? .jpeg : .png,
            width: Int(isTurned ? info.height : info.width),
            height: Int(isTurned ? info.width : info.height),
            isGrey: info.channels <= 2,
            orientation: Int(info.orientation)
        )
    }

    /// Decodes an image, turned as EXIF asks.
    ///
    /// - Parameter channels: 1 or 3.
    /// - Throws: ``ImageError``.
    public static func decode(
        _ bytes: UnsafeRawBufferPointer,
        channels: Int,
        limits: ImageLimits = ImageLimits()
    ) throws -> Raster {
        precondition(channels == 1 || channels == 3, "\(channels) channels")
        var info = try probe(bytes, limits: limits)
        let (width, height) = (Int(info.width), Int(info.height))
        let source = bytes.bindMemory(to: UInt8.self).baseAddress
        var message = [CChar](repeating: 0, count: Int(coord_image_message_size))
        var status: Int32 = 0
        let pixels = [UInt8](unsafeUninitializedCapacity: width * height * channels) { target, count in
            status = coord_image_decode(
                source,
                bytes.count,
                &info,
                Int32(channels),
                target.baseAddress,
                &message
            )
            count = status == 0 ? width * height * channels : 0
        }
        guard status == 0 else { throw damaged(message) }
        guard info.orientation != 1 else {
            return Raster(width: width, height: height, channels: channels, pixels: pixels)
        }
        let turned = [UInt8](unsafeUninitializedCapacity: pixels.count) { target, count in
            coord_image_turn(
                pixels,
                info.width,
                info.height,
                Int32(channels),
                info.orientation,
                target.baseAddress
            )
            count = pixels.count
        }
        let swaps = info.orientation >= 5
        return Raster(
            width: swaps ? height : width,
            height: swaps ? width : height,
            channels: channels,
            pixels: turned
        )
    }

    private static func probe(_ bytes: UnsafeRawBufferPointer, limits: ImageLimits) throws -> coord_image_info
    {
        guard bytes.count <= limits.fileBytes else {
            throw ImageError(
                .tooLarge,
                "has \(bytes.count) bytes, at most \(limits.fileBytes) are read",
                hint: "scale it down"
            )
        }
        var info = coord_image_info()
        var message = [CChar](repeating: 0, count: Int(coord_image_message_size))
        let status = coord_image_probe(
            bytes.bindMemory(to: UInt8.self).baseAddress,
            bytes.count,
            &info,
            &message
        )
        guard status != -1 else {
            throw ImageError(.notAnImage, bytes.isEmpty ? "is empty" : "is neither JPEG nor PNG")
        }
        guard status == 0 else { throw damaged(message) }
        let (pixels, overflow) = Int(info.width).multipliedReportingOverflow(by: Int(info.height))
        guard !overflow, pixels <= limits.pixels else {
            throw ImageError(
                .tooLarge,
                "has \(info.width) by \(info.height) pixels, at most \(limits.pixels) are decoded",
                hint: "scale it down"
            )
        }
        guard info.is_cmyk == 0 else {
            throw ImageError(.fourInks, "is in CMYK", hint: "convert it to RGB")
        }
        guard info.is_animated == 0 else {
            throw ImageError(.animated, "is an animation", hint: "take one frame of it")
        }
        return info
    }

    private static func damaged(_ message: [CChar]) -> ImageError {
        let words = message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        return ImageError(
            .damaged,
            "is damaged or cut off: \(ForeignText.line(String(decoding: words, as: UTF8.self)))",
            hint: "get it again"
        )
    }
}
