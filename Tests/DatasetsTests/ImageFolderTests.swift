import Basics
import ContentStore
import CoordTesting
import Images
import Testing

@testable import Datasets

/// An image of one colour and a slope, as both formats keep it.
private func image(_ width: Int, _ height: Int, shade: Int, isGrey: Bool = false) -> [UInt8] {
    (0..<(width * height * (isGrey ? 1 : 3))).map { place in
        UInt8((shade + place / (isGrey ? 1 : 3) % width + (isGrey ? 0 : 40 * (place % 3))) % 256)
    }
}

@Suite struct ImageFolderTests {
    private func write(_ bytes: [UInt8], _ path: String) throws {
        try Files.createDirectory(Files.parent(path))
        try Files.writeAtomically(bytes, to: path)
    }

    /// Twelve images in two classes, one of them in a folder of its own, with names that need care.
    private func fill(_ root: String, width: Int = 8, height: Int = 8, isGrey: Bool = false) throws {
        for index in 0..<12 {
            let pixels = image(width, height, shade: 10 * index, isGrey: isGrey)
            let channels = isGrey ? 1 : 3
            let name = ["a b'\"$.png", "ü\u{1F600}.jpg", "-x.jpeg", "sub/0.PNG", "4", "no.gif"][index / 2]
            let bytes =
                index < 4
                ? ImageEncoder.png(pixels, width: width, height: height, channels: channels)
                : ImageEncoder.jpeg(pixels, width: width, height: height, channels: channels)
            try write(bytes, "\(root)/\(index % 2 == 0 ? "cat" : "dog two")/\(name)")
        }
        try write([1], root + "/cat/.DS_Store")
        try write([1], root + "/.hidden/x.png")
        try write([1], root + "/README.txt")
    }

    @Test func imagesBecomePixelsOfTheirClasses() throws {
        try withStore { store, folder throws in
            try fill(folder + "/in")
            let read = try ImageFolder(folder + "/in")
            #expect(read.classes == ["cat", "dog two"] && read.shape == [3, 8, 8] && read.problems.isEmpty)
            let id = try DatasetImporter(store: store).add(path: folder + "/in", name: "pets")
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.count == 12 && dataset.index.classCounts == [6, 6])
            #expect(
                dataset.index.format == 1
                    && dataset.index.images == ImageStorage(fit: .crop, isEncoded: false)
            )
            let names = try #require(try dataset.readNames())
            let sample = try #require(names.firstIndex(of: "cat/a b'\"$.png"))
            #expect(dataset.label(sample) == 0)
            let pixels = image(8, 8, shade: 0)
            #expect(
                dataset.read(sample) == (0..<3).flatMap { c in (0..<64).map { Float(pixels[3 * $0 + c]) } }
            )
        }
    }

    @Test func greyImagesHaveOneChannel() throws {
        try withStore { store, folder throws in
            try fill(folder + "/in", isGrey: true)
            for storage in [ImageFolder.Options.Storage.pixels, .files] {
                let id = try DatasetImporter(store: store).add(
                    path: folder + "/in",
                    name: "grey",
                    images: .init(storage: storage)
                )
                let dataset = try Dataset(store: store, manifest: id)
                #expect(dataset.shape == [1, 8, 8])
                let first = try #require(try dataset.readNames()?.firstIndex(of: "cat/a b'\"$.png"))
                #expect(dataset.read(first) == image(8, 8, shade: 0, isGrey: true).map(Float.init))
            }
        }
    }

    /// Kept as files or as pixels: the same values, whatever the shape.
    @Test func filesAreDecodedToTheSamePixels() throws {
        try withStore { store, folder throws in
            try fill(folder + "/in", width: 30, height: 20)
            for fit in ImageFit.allCases {
                var values: [[String: [Float]]] = []
                for storage in [ImageFolder.Options.Storage.pixels, .files] {
                    let id = try DatasetImporter(store: store).add(
                        path: folder + "/in",
                        name: "pets",
                        images: .init(height: 12, width: 16, fit: fit, storage: storage)
                    )
                    let dataset = try Dataset(store: store, manifest: id)
                    #expect(dataset.shape == [3, 12, 16])
                    #expect(dataset.index.isEncoded == (storage == .files))
                    #expect(dataset.index.format == (storage == .files ? 2 : 1))
                    #expect(DatasetCheck.run(dataset).isUsable)
                    #expect(store.verify(id).isEmpty)
                    let names = try #require(try dataset.readNames())
                    values.append(
                        Dictionary(uniqueKeysWithValues: names.indices.map { (names[$0], dataset.read($0)) })
                    )
                }
                #expect(values[0] == values[1] && values[0].count == 12)
            }
        }
    }

    @Test func manyFilesAreCutIntoShardsThatLoadByThemselves() throws {
        try withStore { store, folder throws in
            // Noise, which no format makes small: 40 files of about 190 KB in 4 shards.
            for index in 0..<40 {
                let philox = Philox(key: UInt64(index))
                let noise = (0..<(256 * 256 * 3 / 16)).flatMap { block -> [UInt8] in
                    let four = philox.block(UInt32(block), 0, 0, 0)
                    return (0..<4).flatMap { i in
                        (0..<4).map { UInt8(truncatingIfNeeded: four[i] >> (8 * $0)) }
                    }
                }
                try write(
                    ImageEncoder.png(noise, width: 256, height: 256, channels: 3),
                    "\(folder)/in/\(index % 2)/\(index).png"
                )
            }
            let id = try DatasetImporter(store: store).add(path: folder + "/in", name: "noise")
            let all = try Dataset(store: store, manifest: id)
            #expect(all.index.isEncoded && all.index.shards.count == 4)
            let sample = try #require((0..<40).first { all.shard($0) == 2 })
            let part = try Dataset(store: store, manifest: id, shards: [2])
            #expect(part.read(sample) == all.read(sample))
            try part.load(shards: [0, 1, 3])
            #expect((0..<40).allSatisfy { part.read($0) == all.read($0) })
        }
    }

    @Test func whatCannotBeReadIsNamedAndLeftOutOnlyWhenTold() throws {
        try withStore { store, folder throws in
            try fill(folder + "/in")
            let good = ImageEncoder.jpeg(image(8, 8, shade: 3), width: 8, height: 8, channels: 3)
            try write(Array(good[..<(good.count / 2)]), folder + "/in/cat/cut.jpg")
            try write(Array("GIF89a".utf8), folder + "/in/dog two/moving.gif")
            try write([], folder + "/in/dog two/nothing.png")
            let error = #expect(throws: DatasetError.self) { try ImageFolder(folder + "/in") }
            #expect(error?.message.hasPrefix("\(folder)/in/cat/cut.jpg is damaged or cut off: ") == true)
            #expect(error?.message.hasSuffix("(and 2 more such files)") == true)
            #expect(error?.hint == "get it again, or leave out what cannot be read with --skip-bad")
            let read = try ImageFolder(folder + "/in", options: .init(skipsBad: true))
            #expect(
                read.problems.map(\.path) == ["cat/cut.jpg", "dog two/moving.gif", "dog two/nothing.png"]
            )
            #expect(read.problems.map(\.error.code) == [.damaged, .notAnImage, .notAnImage])
            #expect(
                try Dataset(store: store, manifest: DatasetImporter(store: store).add(read, name: "t")).count
                    == 12
            )
        }
    }

    @Test func foldersThatAreNoClassFoldersAreExplained() throws {
        try withStore { _, folder throws in
            func message(_ path: String, _ options: ImageFolder.Options = .init()) -> String {
                do {
                    _ = try ImageFolder(folder + path, options: options)
                    return "no error"
                } catch {
                    return (error as? DatasetError).map { $0.message + " | " + ($0.hint ?? "") } ?? "\(error)"
                }
            }
            try fill(folder + "/a/train")
            try fill(folder + "/a/test")
            #expect(message("/a").contains("which are no classes | add \(folder)/a/train"))
            try fill(folder + "/b")
            try Files.createDirectory(folder + "/b/empty")
            #expect(message("/b").contains("no image in the class folder 'empty'"))
            try write([1, 2, 3], folder + "/c/x/1.txt")
            try write([1, 2, 3], folder + "/c/y/1.txt")
            #expect(message("/c").contains("none of 2 files is a JPEG or PNG image, the first is x/1.txt"))
            try write([1], folder + "/d/only/1.png")
            #expect(message("/d").contains("holds 1 class folders"))
            // Of two sizes, and none was asked for.
            try fill(folder + "/e")
            let wide = ImageEncoder.png(image(9, 8, shade: 1), width: 9, height: 8, channels: 3)
            try write(wide, folder + "/e/cat/wide.png")
            #expect(
                message("/e").contains("cat/wide.png is 9 pixels wide and 8 high, the first image 8 and 8")
            )
            #expect(message("/e", .init(height: 8, width: 8)) == "no error")
        }
    }

    @Test func aNameThatIsNoTextIsAnError() throws {
        try withStore { _, folder throws in
            try fill(folder + "/in")
            // A shell makes the name that Swift cannot: a byte that is no UTF-8.
            let made = try ChildProcess.run([
                "/bin/sh", "-c", "cp \"$0/in/cat/4\" \"$0/in/cat/$(printf 'x\\377.png')\"", folder,
            ])
            #expect(made.exit.isSuccess)
            let read = try ImageFolder(folder + "/in", options: .init(skipsBad: true))
            #expect(read.problems.map(\.error.message) == ["cannot be opened under that name"])
        }
    }

    @Test func aShardOfFilesThatLiesIsRefused() throws {
        try withStore { store, folder throws in
            try fill(folder + "/in")
            let id = try DatasetImporter(store: store).add(
                path: folder + "/in",
                name: "t",
                images: .init(storage: .files)
            )
            let index = try Dataset(store: store, manifest: id).index
            let good = try store.readFile(store.manifest(id), "shards/00000.bin")
            func places(_ change: (inout [UInt8]) -> Void) throws -> [Int] {
                var bytes = good
                change(&bytes)
                return try ShardFormat.files(ofShard: bytes, number: 0, index: index, dataset: id)
            }
            #expect(try places { _ in }.count == 13)
            for change: (inout [UInt8]) -> Void in [
                { $0[12] = 9 }, { $0[24] = 200 }, { $0[64] = 1 }, { $0[72] = 255 }, { $0[79] = 255 },
                { $0.removeLast() }, { $0 = [] },
            ] {
                let error = #expect(throws: DatasetError.self) { try places(change) }
                #expect(error?.code == .badDataset)
            }
        }
    }

    /// Sixty thousand JPEG files of 32 by 32 pixels, ten classes.
    @Test(.timeLimit(.minutes(2)))
    func theTestPartOfCIFARIsReadWhole() throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let archive = "/\(root)/../shared/data/cifar10-jpeg.tar"
        guard Files.kind(archive) == .file else {
            print("skipped: no ../shared/data/cifar10-jpeg.tar")
            return
        }
        try withStore { store, folder throws in
            #expect(try ChildProcess.run(["/bin/tar", "-xf", archive, "-C", folder, "test"]).exit.isSuccess)
            let id = try DatasetImporter(store: store).add(path: folder + "/test", name: "cifar10-test")
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.count == 10_000 && dataset.shape == [3, 32, 32])
            #expect(dataset.index.classCounts == [Int](repeating: 1000, count: 10))
            #expect(dataset.classes.first == "airplane" && dataset.classes.last == "truck")
            #expect(DatasetCheck.run(dataset).isUsable)
        }
    }
}
