import Basics
import CoordTesting
import Testing

@testable import Images

/// `[height × width × channels]`: no two neighbours alike.
func picture(_ width: Int, _ height: Int, channels: Int = 3) -> [UInt8] {
    (0..<(width * height * channels)).map { place in
        let (x, y, c) = (place / channels % width, place / channels / width, place % channels)
        return UInt8((7 * x + 13 * y + 31 * c + x * y) % 256)
    }
}

/// Slowly rising, which JPEG keeps well.
func slope(_ width: Int, _ height: Int, channels: Int = 3) -> [UInt8] {
    (0..<(width * height * channels)).map { place in
        UInt8((place / channels % width * 3 + place / channels / width * 2 + 20) % 256)
    }
}

private func decode(_ bytes: [UInt8], channels: Int = 3, limits: ImageLimits = ImageLimits()) throws -> Raster
{
    try bytes.withUnsafeBytes { try ImageDecoder.decode($0, channels: channels, limits: limits) }
}

private func head(_ bytes: [UInt8]) throws -> ImageHead {
    try bytes.withUnsafeBytes { try ImageDecoder.head($0) }
}

private func chunk(_ kind: String, _ data: [UInt8]) -> [UInt8] {
    func big(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }
    var sum: UInt32 = 0xFFFF_FFFF
    for byte in Array(kind.utf8) + data {
        sum ^= UInt32(byte)
        for _ in 0..<8 { sum = sum & 1 == 1 ? sum >> 1 ^ 0xEDB8_8320 : sum >> 1 }
    }
    return big(UInt32(data.count)) + Array(kind.utf8) + data + big(~sum)
}

private func tiff(orientation: UInt8) -> [UInt8] {
    Array("MM".utf8) + [0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0]
}

@Suite struct ImageTests {
    @Test func aPNGComesBackExactly() throws {
        for channels in 1...4 {
            let pixels = picture(17, 11, channels: channels)
            let file = ImageEncoder.png(pixels, width: 17, height: 11, channels: channels)
            let raster = try decode(file)
            #expect(raster.width == 17 && raster.height == 11 && raster.channels == 3)
            #expect(try head(file).isGrey == (channels <= 2))
            for place in 0..<(17 * 11) {
                let own = Array(pixels[(place * channels)..<((place + 1) * channels)])
                let expected = channels <= 2 ? [own[0], own[0], own[0]] : Array(own.prefix(3))
                if Array(raster.pixels[(3 * place)..<(3 * place + 3)]) != expected {
                    Issue.record("\(channels) channels, pixel \(place)")
                }
            }
            if channels <= 2 {
                #expect(
                    try decode(file, channels: 1).pixels
                        == stride(from: 0, to: pixels.count, by: channels).map { pixels[$0] }
                )
            }
        }
    }

    @Test func sixteenBitsAreRoundedToEight() throws {
        let values: [UInt16] = [0, 128, 129, 255, 32767, 65407, 65535, 1000, 50000]
        let file = ImageEncoder.png(
            values.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] },
            width: 3,
            height: 3,
            channels: 1,
            bits: 16
        )
        #expect(try decode(file, channels: 1).pixels == values.map { UInt8((Int($0) * 255 + 32895) >> 16) })
    }

    @Test func aJPEGComesBackNearly() throws {
        for channels in [1, 3] {
            let pixels = slope(40, 24, channels: channels)
            let file = ImageEncoder.jpeg(pixels, width: 40, height: 24, channels: channels)
            let raster = try decode(file, channels: channels)
            #expect(raster.width == 40 && raster.height == 24)
            let worst = zip(raster.pixels, pixels).map { abs(Int($0) - Int($1)) }.max()
            #expect((worst ?? 255) <= 4)
            #expect(
                try head(file)
                    == ImageHead(format: .jpeg, width: 40, height: 24, isGrey: channels == 1, orientation: 1)
            )
        }
    }

    /// Each orientation, in both formats, against what EXIF says the first row and column are.
    @Test(arguments: 1...8)
    func theOrientationIsObeyed(_ orientation: Int) throws {
        let (width, height) = (8, 16)
        let source = slope(width, height, channels: 1)
        func stored(_ row: Int, _ column: Int) -> UInt8 { source[row * width + column] }
        let swaps = orientation >= 5
        let expected = (0..<(swaps ? width : height)).flatMap { y in
            (0..<(swaps ? height : width)).map { x -> UInt8 in
                switch orientation {
                case 1: stored(y, x)
                case 2: stored(y, width - 1 - x)
                case 3: stored(height - 1 - y, width - 1 - x)
                case 4: stored(height - 1 - y, x)
                case 5: stored(x, y)
                case 6: stored(height - 1 - x, y)
                case 7: stored(height - 1 - x, width - 1 - y)
                default: stored(x, width - 1 - y)
                }
            }
        }
        let block = tiff(orientation: UInt8(orientation))
        var png = ImageEncoder.png(source, width: width, height: height, channels: 1)
        png.insert(contentsOf: chunk("eXIf", block), at: 33)
        let turned = try decode(png, channels: 1)
        #expect(turned.pixels == expected)
        #expect(turned.width == (swaps ? height : width))
        #expect(try head(png).height == turned.height)

        var jpeg = ImageEncoder.jpeg(source, width: width, height: height, channels: 1, quality: 100)
        let marker = Array("Exif".utf8) + [0, 0] + block
        jpeg.insert(contentsOf: [0xFF, 0xE1, 0, UInt8(marker.count + 2)] + marker, at: 2)
        #expect(try head(jpeg).orientation == orientation)
        let worst = zip(try decode(jpeg, channels: 1).pixels, expected).map { abs(Int($0) - Int($1)) }.max()
        #expect((worst ?? 255) <= 3)
    }

    /// Pillow 10.4.0: `resize(…, BILINEAR)`, and torchvision's Resize and CenterCrop after it; later versions begin with the
    /// other direction where that is less work.
    @Test(arguments: [
        (13, 9, 5, 4, "f711d1f1240d4f1d", "f711d1f1240d4f1d"),
        (64, 48, 32, 32, "0e1e539d59b9cabe", "4a8c27f8e1dd44d7"),
        (7, 5, 20, 16, "72379d5917cd106f", "6aea609d6a3269e4"),
        (100, 37, 16, 24, "cb8000ab24b5261f", "c7135f2a5fa05dc0"),
        (31, 77, 32, 32, "0edf617825b45e65", "1f0050b2dad6b5d8"),
    ])
    func scalingIsPillowsToTheBit(
        _ width: Int,
        _ height: Int,
        _ newWidth: Int,
        _ newHeight: Int,
        _ stretched: String,
        _ cropped: String
    ) {
        let raster = Raster(width: width, height: height, channels: 3, pixels: picture(width, height))
        for (fit, digest) in [(ImageFit.stretch, stretched), (.crop, cropped)] {
            let result = raster.fitted(width: newWidth, height: newHeight, fit)
            #expect(result.width == newWidth && result.height == newHeight)
            #expect(Digest(of: result.pixels).hex.hasPrefix(digest), "\(fit)")
        }
    }

    @Test func planesFollowOneAnother() {
        let raster = Raster(width: 2, height: 1, channels: 3, pixels: [1, 2, 3, 4, 5, 6])
        #expect(raster.planes() == [1, 4, 2, 5, 3, 6])
    }
}

@Suite struct HostileImageTests {
    private func code(_ bytes: [UInt8], limits: ImageLimits = ImageLimits()) -> ImageError.Code? {
        do {
            _ = try decode(bytes, limits: limits)
            return nil
        } catch {
            return (error as? ImageError)?.code
        }
    }

    private let jpeg = ImageEncoder.jpeg(picture(48, 40), width: 48, height: 40, channels: 3)
    private let png = ImageEncoder.png(picture(48, 40), width: 48, height: 40, channels: 3)

    @Test func whatIsCutOffIsDamaged() {
        for file in [jpeg, png] {
            for length in stride(from: 40, to: file.count - 2, by: 97) + [file.count - 3] {
                #expect(code(Array(file[..<length])) == .damaged, "\(length) of \(file.count) bytes")
            }
        }
    }

    @Test func whatIsNoImageSaysSo() {
        for bytes in [
            [], Array("GIF89a".utf8), [0xFF, 0xD8], Array("hello, world".utf8),
            [UInt8](repeating: 0, count: 5000),
        ] {
            #expect(code(bytes) == .notAnImage)
        }
        #expect(code([0xFF, 0xD8, 0xFF, 0xE0]) == .damaged)
        #expect(code(Array(png[..<12])) == .damaged)
    }

    @Test func whatIsTooLargeIsRefusedBeforeItIsDecoded() {
        var huge = png
        huge.replaceSubrange(16..<24, with: [0, 1, 0x86, 0xA0, 0, 1, 0x86, 0xA0])
        #expect(code(huge) == .tooLarge)
        var wide = jpeg
        let frame = wide.indices.first { wide[$0] == 0xFF && wide[$0 + 1] == 0xC0 } ?? 0
        wide.replaceSubrange((frame + 5)..<(frame + 9), with: [0xFD, 0xE8, 0xFD, 0xE8])
        #expect(code(wide) == .tooLarge)
        #expect(code(jpeg, limits: ImageLimits(fileBytes: 100)) == .tooLarge)
        #expect(code(jpeg, limits: ImageLimits(pixels: 48 * 40 - 1)) == .tooLarge)
        #expect(code(jpeg, limits: ImageLimits(pixels: 48 * 40)) == nil)
    }

    @Test func fourInksAndAnimationsAreNamed() {
        let inks = ImageEncoder.jpeg(picture(16, 16, channels: 4), width: 16, height: 16, channels: 4)
        #expect(code(inks) == .fourInks)
        var animated = png
        animated.insert(contentsOf: chunk("acTL", [0, 0, 0, 2, 0, 0, 0, 0]), at: 33)
        #expect(code(animated) == .animated)
    }

    @Test func aWrongSumOfAChunkIsDamage() {
        var bytes = png
        bytes[bytes.count / 2] ^= 0x40
        #expect(code(bytes) == .damaged)
    }

    /// Whatever the bytes are: an image or an error, never the end of the process, and no orientation outside 1 to 8.
    @Test(.timeLimit(.minutes(5)))
    func mutationsEndInAnImageOrAnError() {
        let random = RandomSource(seed: 5)
        var images = 0, errors = 0
        for (which, file) in [jpeg, png].enumerated() {
            for round in 0..<3000 {
                var bytes = file
                for change in 0..<(1 + round % 4) {
                    let four = random.block(.order, layer: which, step: round, position: change)
                    // Heads matter more than pixels.
                    let span = four[2] % 2 == 0 ? 200 : bytes.count
                    bytes[Int(four[0]) % min(span, bytes.count)] = UInt8(truncatingIfNeeded: four[1])
                }
                do {
                    let raster = try decode(bytes, limits: ImageLimits(pixels: 1 << 20))
                    #expect(raster.pixels.count == raster.width * raster.height * 3)
                    images += 1
                } catch {
                    if !(error is ImageError) { Issue.record("\(error)") }
                    errors += 1
                }
            }
        }
        #expect(images > 100 && errors > 100, "\(images) images, \(errors) errors")
    }
}
