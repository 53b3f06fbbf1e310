import Basics
import CoordTesting
import Testing

@testable import Datasets

@Suite struct TextReaderTests {
    @Test func aTextIsCutIntoWindowsAndTheByteAfterEach() throws {
        try withStore { _, folder throws in
            let path = folder + "/a.txt"
            try Files.writeAtomically(Array("abcab\ncab".utf8), to: path)
            let table = try TextReader.read(path, length: 3)
            #expect(table.classes == ["0x0a", "a", "b", "c"])
            #expect(table.shape == [3] && table.type == .uint8)
            #expect(table.values == [1, 2, 3, 1, 2, 0])
            #expect(table.labels == [1, 3])
            for (text, length) in [("abcdef", 3), ("aaaaaaaaaaa", 2), ("", 1)] {
                try Files.writeAtomically(Array(text.utf8), to: path)
                let error = #expect(throws: DatasetError.self) { try TextReader.read(path, length: length) }
                #expect(error?.code == .badInput)
            }
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func shakespeareIsReadWhole() throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let path = "/\(root)/../shared/data/tinyshakespeare.txt"
        guard Files.kind(path) == .file else {
            print("skipped: no ../shared/data/tinyshakespeare.txt")
            return
        }
        try withStore { store, _ throws in
            let id = try DatasetImporter(store: store).add(path: path, name: "shakespeare")
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.classes.count == 65 && dataset.shape == [128])
            #expect(dataset.count == 8714)
        }
    }

    /// The tail of the text is held out, and a letter that ends no window is nobody's mistake.
    @Test func theEndOfATextIsHeldOut() throws {
        try withStore { store, folder throws in
            let path = folder + "/a.txt"
            // 1000 windows of four letters that tell their number, and one letter that ends none.
            let text = (0..<1000).map { number in
                let digits = "\(number)"
                return String(repeating: "0", count: 3 - digits.count) + digits + "q"
            }
            try Files.writeAtomically(Array((text.joined() + "z").utf8), to: path)
            let id = try DatasetImporter(store: store).add(
                path: path,
                name: "t",
                options: CSVOptions(shape: [4])
            )
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.index.kind == .text && dataset.count == 1000)
            func number(_ sample: Int) -> Int {
                Int(dataset.read(sample).prefix(3).reduce(0) { $0 * 10 + $1 })
            }
            #expect((0..<1000).allSatisfy { number($0) == $0 })
            let split = try Split.make(
                dataset,
                SplitSpec(validation: Split.usualValidation(dataset.index.kind), test: 0.05)
            )
            #expect(split.training == Array(0..<850))
            #expect(split.validation == Array(850..<950) && split.test == Array(950..<1000))
            let check = DatasetCheck.run(dataset)
            #expect(check.classCounts.contains(0) && check.isUsable)
            #expect(!check.findings.contains { [.emptyClass, .singleSample, .imbalance].contains($0.kind) })
            for spec in [SplitSpec(validation: 0.6, test: 0.5), SplitSpec(validation: -0.1)] {
                let error = #expect(throws: DatasetError.self) { try Split.make(dataset, spec) }
                #expect(error?.code == .badSplit)
            }
        }
    }
}
