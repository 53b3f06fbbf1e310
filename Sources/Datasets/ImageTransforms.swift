internal import Basics

/// Sides of an image.
struct ImageShape: Sendable {
    var channels: Int
    var height: Int
    var width: Int
    /// Numbers in a channel.
    var plane: Int { height * width }
}

/// One random change of an image.
protocol ImageTransform: Sendable {
    /// Changes `values`, `[C, H, W]` from 0 to 255, as the random bits say.
    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>)
}

/// A whole number below `count` from 32 random bits.
private func below(_ count: Int, _ bits: UInt32) -> Int { Int((UInt64(bits) * UInt64(count)) >> 32) }

/// A number from -1 to 1 from 32 random bits.
private func around(_ bits: UInt32) -> Float { 2 * RandomSource.unit(bits) - 1 }

/// Mirrors an image with some probability.
struct Flip: ImageTransform {
    let isVertical: Bool
    let probability: Float

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        guard RandomSource.unit(bits[0]) < probability else { return }
        let width = shape.width
        for channel in 0..<shape.channels {
            let plane = channel * shape.plane
            if isVertical {
                for row in 0..<(shape.height / 2) {
                    for x in 0..<width {
                        values.swapAt(plane + row * width + x, plane + (shape.height - 1 - row) * width + x)
                    }
                }
            } else {
                for row in 0..<shape.height {
                    for x in 0..<(width / 2) {
                        values.swapAt(plane + row * width + x, plane + row * width + width - 1 - x)
                    }
                }
            }
        }
    }
}

/// Sets an image into a black frame and cuts its size out of that anywhere.
struct PaddedCrop: ImageTransform {
    let padding: Int

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        let right = below(2 * padding + 1, bits[0]) - padding
        let down = below(2 * padding + 1, bits[1]) - padding
        guard right != 0 || down != 0 else { return }
        let source = Array(values)
        for channel in 0..<shape.channels {
            for y in 0..<shape.height {
                let row = channel * shape.plane + y * shape.width
                let from = row + down * shape.width + right
                let isInside = (0..<shape.height).contains(y + down)
                for x in 0..<shape.width {
                    values[row + x] =
                        isInside && x + right >= 0 && x + right < shape.width ? source[from + x] : 0
                }
            }
        }
    }
}

/// Turns an image round its middle, bilinear, black outside; the angle is even over ± `degrees`, counter-clockwise.
struct Rotation: ImageTransform {
    let degrees: Double

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        turn(values, shape, radians: Double(around(bits[0])) * degrees * .pi / 180)
    }

    func turn(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, radians: Double) {
        let (c, s) = ExactMath.turn(radians)
        let (cosine, sine) = (Float(c), Float(s))
        let source = Array(values)
        let (width, height) = (shape.width, shape.height)
        let (middleX, middleY) = (Float(width - 1) / 2, Float(height - 1) / 2)
        for y in 0..<height {
            for x in 0..<width {
                let (dx, dy) = (Float(x) - middleX, Float(y) - middleY)
                let fromX = cosine * dx - sine * dy + middleX
                let fromY = sine * dx + cosine * dy + middleY
                let (left, top) = (fromX.rounded(.down), fromY.rounded(.down))
                let (right, down) = (fromX - left, fromY - top)
                let (column, row) = (Int(left), Int(top))
                for channel in 0..<shape.channels {
                    let plane = channel * shape.plane
                    func at(_ row: Int, _ column: Int) -> Float {
                        row >= 0 && row < height && column >= 0 && column < width
                            ? source[plane + row * width + column] : 0
                    }
                    let upper = at(row, column) * (1 - right) + at(row, column + 1) * right
                    let lower = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right
                    values[plane + y * width + x] = upper * (1 - down) + lower * down
                }
            }
        }
    }
}

/// Brightness, contrast, saturation and hue, in this order, each by a factor of its own.
struct ColorJitter: ImageTransform {
    let brightness: Float
    let contrast: Float
    let saturation: Float
    let hue: Float

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        change(
            values,
            shape,
            brightness: 1 + around(bits[0]) * brightness,
            contrast: 1 + around(bits[1]) * contrast,
            saturation: 1 + around(bits[2]) * saturation,
            hue: around(bits[3]) * hue
        )
    }

    func change(
        _ values: UnsafeMutableBufferPointer<Float>,
        _ shape: ImageShape,
        brightness: Float,
        contrast: Float,
        saturation: Float,
        hue: Float
    ) {
        let plane = shape.plane
        let isColored = shape.channels == 3
        func clamp(_ value: Float) -> Float { min(max(value, 0), 255) }
        func grey(_ place: Int) -> Float {
            guard isColored else { return values[place] }
            return 0.2989 * values[place] + 0.587 * values[plane + place] + 0.114 * values[2 * plane + place]
        }
        if brightness != 1 {
            for place in values.indices { values[place] = clamp(values[place] * brightness) }
        }
        if contrast != 1 {
            var sum = 0.0
            for place in 0..<plane { sum += Double(grey(place)) }
            let mean = Float(sum / Double(plane))
            for place in values.indices {
                values[place] = clamp(contrast * values[place] + (1 - contrast) * mean)
            }
        }
        guard isColored else { return }
        if saturation != 1 {
            for place in 0..<plane {
                let own = grey(place)
                for channel in 0..<3 {
                    let at = channel * plane + place
                    values[at] = clamp(saturation * values[at] + (1 - saturation) * own)
                }
            }
        }
        if hue != 0 {
            for place in 0..<plane {
                let turned = Self.turned(
                    (values[place], values[plane + place], values[2 * plane + place]),
                    by: hue
                )
                values[place] = turned.0
                values[plane + place] = turned.1
                values[2 * plane + place] = turned.2
            }
        }
    }

    /// A colour with its hue turned by a part of the whole circle, by way of hue, saturation and value.
    private static func turned(_ color: (Float, Float, Float), by part: Float) -> (Float, Float, Float) {
        let (r, g, b) = color
        let most = max(r, max(g, b))
        let range = most - min(r, min(g, b))
        guard range > 0 else { return color }
        var sixths =
            most == r ? (g - b) / range : most == g ? 2 + (b - r) / range : 4 + (r - g) / range
        sixths += 6 * part
        sixths -= 6 * (sixths / 6).rounded(.down)
        let face = min(sixths.rounded(.down), 5)
        let f = sixths - face
        let low = most - range
        let (falling, rising) = (most - range * f, most - range * (1 - f))
        switch Int(face) {
        case 0: return (most, rising, low)
        case 1: return (falling, most, low)
        case 2: return (low, most, rising)
        case 3: return (low, falling, most)
        case 4: return (rising, low, most)
        default: return (most, low, falling)
        }
    }
}

/// A Gaussian with some probability; its width is even from 0.1 to `sigma` pixels, and the edge is a mirror.
struct Blur: ImageTransform {
    let sigma: Double
    let probability: Float

    static func radius(_ sigma: Double) -> Int { Int((2 * sigma).rounded(.up)) }

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        guard RandomSource.unit(bits[0]) < probability else { return }
        blur(values, shape, sigma: 0.1 + Double(RandomSource.unit(bits[1])) * (sigma - 0.1))
    }

    func blur(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, sigma: Double) {
        let radius = Self.radius(self.sigma)
        var weights = (-radius...radius).map {
            Float(ExactMath.exponential(-Double($0 * $0) / (2 * sigma * sigma)))
        }
        let total = weights.reduce(0, +)
        weights = weights.map { $0 / total }
        func mirrored(_ place: Int, _ count: Int) -> Int {
            place < 0 ? -place : place >= count ? 2 * (count - 1) - place : place
        }
        var middle = [Float](repeating: 0, count: shape.plane)
        for channel in 0..<shape.channels {
            let plane = channel * shape.plane
            for y in 0..<shape.height {
                for x in 0..<shape.width {
                    var sum: Float = 0
                    for (index, weight) in weights.enumerated() {
                        sum +=
                            weight
                            * values[plane + y * shape.width + mirrored(x + index - radius, shape.width)]
                    }
                    middle[y * shape.width + x] = sum
                }
            }
            for y in 0..<shape.height {
                for x in 0..<shape.width {
                    var sum: Float = 0
                    for (index, weight) in weights.enumerated() {
                        sum += weight * middle[mirrored(y + index - radius, shape.height) * shape.width + x]
                    }
                    values[plane + y * shape.width + x] = sum
                }
            }
        }
    }
}

/// Covers a square, with some probability, with the image's own mean; its middle is any pixel, so it may reach over the edge.
///
/// - Source: DeVries & Taylor 2017, "Improved regularization of convolutional neural networks with cutout".
struct CutOut: ImageTransform {
    let size: Int
    let probability: Float

    func apply(_ values: UnsafeMutableBufferPointer<Float>, _ shape: ImageShape, _ bits: SIMD4<UInt32>) {
        guard RandomSource.unit(bits[0]) < probability else { return }
        let left = below(shape.width, bits[1]) - size / 2
        let top = below(shape.height, bits[2]) - size / 2
        for channel in 0..<shape.channels {
            let plane = channel * shape.plane
            var sum = 0.0
            for place in plane..<(plane + shape.plane) { sum += Double(values[place]) }
            let mean = Float(sum / Double(shape.plane))
            for y in max(0, top)..<max(0, min(shape.height, top + size)) {
                for x in max(0, left)..<max(0, min(shape.width, left + size)) {
                    values[plane + y * shape.width + x] = mean
                }
            }
        }
    }
}
