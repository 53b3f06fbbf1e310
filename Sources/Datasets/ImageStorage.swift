public import Images

/// How the samples of a dataset are made of images.
public struct ImageStorage: Hashable, Sendable, Codable {
    /// How images of another shape are brought to the dataset's.
    public var fit: ImageFit
    /// True when the samples are the files; false when they are the pixels.
    public var isEncoded: Bool

    /// Both fields.
    public init(fit: ImageFit, isEncoded: Bool) {
        self.fit = fit
        self.isEncoded = isEncoded
    }

    /// The values of a file as a sample.
    ///
    /// - Parameter shape: `[C, H, W]`, C = 1 or 3.
    /// - Returns: `[C, H, W]`.
    /// - Throws: `ImageError`.
    public func pixels(of file: UnsafeRawBufferPointer, shape: [Int]) throws -> [UInt8] {
        try ImageDecoder.decode(file, channels: shape[0])
            .fitted(width: shape[2], height: shape[1], fit).planes()
    }
}
