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

    @Test(.timeLimit(.minutes(1)))
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
}
