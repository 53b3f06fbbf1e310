internal import Basics
internal import Dispatch
public import Images
internal import Synchronization

/// A folder of class folders with JPEG and PNG files, each of which was decoded once.
///
/// The classes are the names of the folders, sorted; a class's files may lie in folders of their own. Files and folders whose
/// name begins with a dot are passed over. What a file is follows from its bytes, not from its name.
public struct ImageFolder: Sendable {
    /// How a folder is to be read.
    public struct Options: Hashable, Sendable {
        /// What samples are.
        public enum Storage: String, Hashable, Sendable, CaseIterable {
            /// Pixels when they are few, else files.
            case auto
            /// Pixels: nothing is decoded while training.
            case pixels
            /// The files as they are, decoded whenever they are read.
            case files
        }
        /// Height and width of a sample; nil = those of the first image, which all must have.
        public var height: Int?
        /// See ``height``.
        public var width: Int?
        /// How images of another shape are brought to that.
        public var fit: ImageFit
        /// What samples are.
        public var storage: Storage
        /// Whether files that cannot be read are left out; else they are an error.
        public var skipsBad: Bool
        /// What a file may ask for.
        public var limits: ImageLimits

        /// All options.
        public init(
            height: Int? = nil,
            width: Int? = nil,
            fit: ImageFit = .crop,
            storage: Storage = .auto,
            skipsBad: Bool = false,
            limits: ImageLimits = ImageLimits()
        ) {
            self.height = height
            self.width = width
            self.fit = fit
            self.storage = storage
            self.skipsBad = skipsBad
            self.limits = limits
        }
    }

    /// A file that was left out, and why.
    public struct Problem: Sendable {
        /// The file, from the folder.
        public var path: String
        /// What is wrong with it.
        public var error: ImageError

        /// `cats/1.jpg is empty`.
        public var description: String { "\(ForeignText.line(path)) \(error.message)" }
    }

    struct Entry: Sendable {
        var path: String
        var label: Int
        /// Of shape, fit and the file's bytes.
        var content: Digest
        /// Of the file; unit: bytes.
        var size: Int
        var isGrey: Bool
        /// `[3, H, W]`; nil where the file is kept.
        var pixels: [UInt8]?
    }

    /// Up to so many values a sample is kept as pixels when nothing is said: 64 by 64 in colours.
    static let smallSample = 3 * 64 * 64
    private static let mostLevels = 16

    let root: String
    let entries: [Entry]
    let storage: ImageStorage
    /// The names of the classes, in label order.
    public let classes: [String]
    /// `[C, H, W]`: one channel when no image has colours.
    public let shape: [Int]
    /// What was left out, in the order of the files.
    public let problems: [Problem]
    let source: DatasetSource

    /// Reads and decodes every file.
    ///
    /// - Throws: ``DatasetError`` `.badInput` naming the first file that cannot be read, unless they are to be skipped, or
    ///   naming the folder that holds no images; `FileError`.
    /// - Cost: all cores; in memory are the pixels, where they are kept.
    public init(_ root: String, options: Options = Options()) throws {
        let (classes, files) = try Self.find(in: root)
        let (height, width) = try Self.size(options, root: root, files: files)
        let isEncoded =
            switch options.storage {
            case .auto: 3 * height * width > Self.smallSample
            case .pixels: false
            case .files: true
            }
        let storage = ImageStorage(fit: options.fit, isEncoded: isEncoded)
        let mustFit = options.height == nil
        let results = Mutex([Result<Entry, ImageError>?](repeating: nil, count: files.count))
        let next = Atomic<Int>(0)
        DispatchQueue.concurrentPerform(iterations: max(1, Machine.cores)) { _ in
            while true {
                let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard index < files.count else { return }
                let result = Result { () throws(ImageError) in
                    try Self.read(
                        files[index],
                        root: root,
                        storage,
                        [3, height, width],
                        mustFit: mustFit,
                        options.limits
                    )
                }
                results.withLock { $0[index] = result }
            }
        }
        var entries: [Entry] = []
        var problems: [Problem] = []
        for (file, result) in zip(files, results.withLock { $0 }) {
            switch result {
            case .success(let entry): entries.append(entry)
            case .failure(let error): problems.append(Problem(path: file.path, error: error))
            case nil: preconditionFailure("a file that nobody read")
            }
        }
        if let first = problems.first, !options.skipsBad {
            let more = problems.count > 1 ? " (and \(problems.count - 1) more such files)" : ""
            let own = first.error.hint.map { "\($0), or " } ?? ""
            throw DatasetError(
                .badInput,
                "\(root)/\(first.description)\(more)",
                hint: "\(own)leave out what cannot be read with --skip-bad"
            )
        }
        let counts = entries.reduce(into: [Int: Int]()) { $0[$1.label, default: 0] += 1 }
        if let empty = classes.indices.first(where: { counts[$0] == nil }) {
            throw DatasetError(
                .badInput,
                "\(root): no image in the class folder '\(ForeignText.line(classes[empty]))'",
                hint: "put images there, or remove the folder"
            )
        }
        let channels = entries.allSatisfy(\.isGrey) ? 1 : 3
        self.root = root
        self.classes = classes
        self.problems = problems
        self.storage = storage
        self.entries = entries
        shape = [channels, height, width]
        var list = ByteWriter()
        for entry in entries {
            list.write(entry.path)
            list.write(entry.content)
        }
        source = DatasetSource(name: Files.name(root), sha256: Digest(of: list.bytes))
    }

    /// The samples as pixels.
    func table() -> SampleTable {
        let size = shape.reduce(1, *)
        var values: [UInt8] = []
        values.reserveCapacity(entries.count * size)
        // Of grey images all channels are equal, so that the first one is the image.
        for entry in entries { values += (entry.pixels ?? []).prefix(size) }
        var table = SampleTable(
            type: .uint8,
            shape: shape,
            classes: classes,
            values: values,
            labels: entries.map(\.label),
            sources: [source]
        )
        table.names = entries.map(\.path)
        table.images = storage
        return table
    }

    /// The bytes of a file that was read before.
    func readAgain(_ entry: Entry) throws -> [UInt8] {
        let path = root + "/" + entry.path
        let bytes = try Files.read(path)
        guard Self.content(bytes, storage, Array(shape.dropFirst())) == entry.content else {
            throw DatasetError(.badInput, "\(path) changed while it was read", hint: "add the folder again")
        }
        return bytes
    }

    // MARK: Reading

    private static func content(_ bytes: [UInt8], _ storage: ImageStorage, _ sides: [Int]) -> Digest {
        var header = ByteWriter()
        header.write("coord-image 1")
        header.write(storage.fit.rawValue)
        for side in sides { header.write(UInt32(side)) }
        var builder = DigestBuilder()
        builder.update(header.bytes)
        builder.update(bytes)
        return builder.finish()
    }

    private static func read(
        _ file: (path: String, label: Int),
        root: String,
        _ storage: ImageStorage,
        _ shape: [Int],
        mustFit: Bool,
        _ limits: ImageLimits
    ) throws(ImageError) -> Entry {
        let path = root + "/" + file.path
        guard Files.kind(path) == .file else {
            throw ImageError(
                .notAnImage,
                Files.kind(path) == nil ? "cannot be opened under that name" : "is no file",
                hint: "give it a name of UTF-8 letters"
            )
        }
        do {
            let size = try Files.size(path)
            guard size <= limits.fileBytes else {
                throw ImageError(
                    .tooLarge,
                    "has \(size) bytes, at most \(limits.fileBytes) are read",
                    hint: "scale it down"
                )
            }
            let bytes = try Files.read(path)
            let (head, raster) = try bytes.withUnsafeBytes { raw in
                (
                    try ImageDecoder.head(raw, limits: limits),
                    try ImageDecoder.decode(raw, channels: 3, limits: limits)
                )
            }
            guard !mustFit || (raster.height == shape[1] && raster.width == shape[2]) else {
                throw ImageError(
                    .tooLarge,
                    "is \(raster.width) pixels wide and \(raster.height) high, the first image \(shape[2]) and \(shape[1])",
                    hint: "give the size of all with --size"
                )
            }
            return Entry(
                path: file.path,
                label: file.label,
                content: content(bytes, storage, Array(shape.dropFirst())),
                size: bytes.count,
                isGrey: head.isGrey,
                pixels: storage.isEncoded
                    ? nil : raster.fitted(width: shape[2], height: shape[1], storage.fit).planes()
            )
        } catch let error as ImageError {
            throw error
        } catch {
            throw ImageError(.notAnImage, "cannot be read: \((error as? FileError)?.message ?? "\(error)")")
        }
    }

    /// The size of all samples: what is asked for, or that of the first image that can be read.
    private static func size(
        _ options: Options,
        root: String,
        files: [(path: String, label: Int)]
    ) throws -> (height: Int, width: Int) {
        if let height = options.height, let width = options.width { return (height, width) }
        for file in files {
            guard let bytes = try? Files.read(root + "/" + file.path, limit: options.limits.fileBytes),
                let head = try? bytes.withUnsafeBytes({ try ImageDecoder.head($0, limits: options.limits) })
            else { continue }
            return (head.height, head.width)
        }
        let first = files.first.map { ForeignText.line($0.path) } ?? ""
        throw DatasetError(
            .badInput,
            "\(root): none of \(files.count) files is a JPEG or PNG image, the first is \(first)",
            hint: "give a folder with one folder of images for each class"
        )
    }

    // MARK: Finding

    private static func find(
        in root: String
    ) throws -> (classes: [String], files: [(path: String, label: Int)]) {
        let names = try Files.list(root).filter { !$0.hasPrefix(".") }
        let classes = names.filter { Files.kind(root + "/" + $0) == .directory }
        if let stray = names.first(where: { Files.kind(root + "/" + $0) == nil }) {
            throw DatasetError(
                .badInput,
                "\(root)/\(ForeignText.line(stray)) cannot be opened under that name",
                hint: "give it a name of UTF-8 letters"
            )
        }
        let parts: Set = ["train", "training", "test", "val", "valid", "validation"]
        if !classes.isEmpty, classes.allSatisfy({ parts.contains($0.lowercased()) }) {
            throw DatasetError(
                .badInput,
                "\(root) holds the folders \(classes.joined(separator: ", ")), which are no classes",
                hint:
                    "add \(root)/\(classes.contains("train") ? "train" : classes[0]): coord splits by itself"
            )
        }
        guard classes.count >= 2 else {
            throw DatasetError(
                .badInput,
                "\(root) holds \(classes.count) class folders, two at least are needed",
                hint: "give a folder with one folder of images for each class"
            )
        }
        var files: [(path: String, label: Int)] = []
        for (label, name) in classes.enumerated() {
            try collect(name, root: root, label: label, level: 1, into: &files)
        }
        guard !files.isEmpty else {
            throw DatasetError(.badInput, "\(root): its \(classes.count) class folders are empty")
        }
        return (classes, files)
    }

    private static func collect(
        _ folder: String,
        root: String,
        label: Int,
        level: Int,
        into files: inout [(path: String, label: Int)]
    ) throws {
        guard level <= mostLevels else {
            throw DatasetError(
                .badInput,
                "\(root)/\(folder) lies more than \(mostLevels) folders deep",
                hint: "look for a link that leads back"
            )
        }
        for name in try Files.list(root + "/" + folder) where !name.hasPrefix(".") {
            let path = folder + "/" + name
            if Files.kind(root + "/" + path) == .directory {
                try collect(path, root: root, label: label, level: level + 1, into: &files)
            } else {
                files.append((path, label))
            }
        }
    }
}
