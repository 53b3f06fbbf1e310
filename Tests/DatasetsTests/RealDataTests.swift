import Basics
import ContentStore
import CoordTesting
import Testing

@testable import Datasets

@Suite struct RealDataTests {
    /// Ten thousand images with a known number of each digit.
    @Test(.timeLimit(.minutes(5)))
    func theTestSetOfMNISTIsReadWhole() throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let folder = "/\(root)/../shared/data/mnist-t10k"
        guard Files.kind(folder) == .directory else {
            print("skipped: no ../shared/data")
            return
        }
        try withStore { store, _ throws in
            let id = try DatasetImporter(store: store).add(path: folder, name: "mnist-t10k")
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.count == 10_000)
            #expect(dataset.shape == [1, 28, 28])
            #expect(dataset.index.classCounts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
            #expect(dataset.index.shards.count == 4)
            let split = try Split.make(dataset, SplitSpec(validation: 0.2))
            #expect(split.training.count == 8000 && split.validation.count == 2000)
            let check = DatasetCheck.run(dataset)
            #expect(check.isUsable)
            #expect(check.minimum == 0 && check.maximum == 255)
            #expect(store.verify(id).isEmpty)
            #expect(id == (try DatasetImporter(store: store).add(path: folder, name: "mnist-t10k")))
        }
    }
}

@Suite struct DigitsSourceTests {
    @Test(.timeLimit(.minutes(5)))
    func theDigitsAreFetchedOnceAndThenRead() throws {
        try withStore { store, folder in
            let target: String
            do {
                target = try DigitsSource().fetch(into: folder + "/data")
            } catch let error as DatasetError where [.noTool, .noNetwork].contains(error.code) {
                print("skipped: \(error.message)")
                return
            }
            // No program to fetch with: the second time comes from the folder.
            #expect(try DigitsSource(python: nil, environment: nil).fetch(into: folder + "/data") == target)
            #expect(try Files.list(folder + "/data") == ["digits.csv"])

            let table = try CSVReader.read(target, options: DigitsSource.options)
            #expect(table.count == 1797)
            #expect(table.shape == [1, 8, 8])
            #expect(table.type == .uint8)
            let id = try DatasetImporter(store: store).add(table, name: DigitsSource.name)
            let dataset = try Dataset(store: store, manifest: id)
            #expect(dataset.index.classCounts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
            let check = DatasetCheck.run(dataset)
            #expect(check.isUsable && check.minimum == 0 && check.maximum == 16)
            #expect(check.findings.map(\.message) == ["3 of 64 values are the same in all samples"])
            #expect(id.hex == "817a484293e49bc1bea2509bd7bda168c53574154fa7a0835de4262a8b876c36")

            // Put there by hand: used, and checked.
            #expect(try ChildProcess.run(["/bin/sh", "-c", "gzip \"$0\"", target]).exit.isSuccess)
            #expect(try DigitsSource(python: nil, environment: nil).fetch(into: folder + "/data") == target)
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func whatIsMissingIsNamedTogetherWithTheWayRound() throws {
        try withTemporaryDirectory { folder throws in
            let none = DigitsSource(python: nil, environment: nil)
            let noPython = #expect(throws: DatasetError.self) { try none.fetch(into: folder) }
            #expect(noPython?.code == .noTool)
            #expect(
                noPython?.message == "fetching digits needs python3 with pip, and there is no python3 on PATH"
            )
            #expect(noPython?.hint?.hasSuffix("at \(folder)/digits.csv.gz") == true)

            let sh = DigitsSource(python: "/bin/false", environment: nil)
            let noPip = #expect(throws: DatasetError.self) { try sh.fetch(into: folder) }
            #expect(noPip?.code == .noNetwork)
            #expect(try Files.list(folder).isEmpty)

            try Files.writeAtomically("1,2,3\n", to: folder + "/digits.csv.gz")
            let wrong = #expect(throws: DatasetError.self) { try none.fetch(into: folder) }
            #expect(wrong?.code == .wrongSource)
            #expect(
                wrong?.message.hasPrefix(
                    "\(folder)/digits.csv.gz is not the digits file that is pinned: 6 bytes"
                ) == true
            )
            #expect(try Files.list(folder) == ["digits.csv.gz"])
        }
    }

    /// pip without an index to ask: the error of a machine without network.
    @Test(.timeLimit(.minutes(5)))
    func withoutANetworkTheErrorSaysSo() throws {
        guard let python = Programs.find("python3") else {
            print("skipped: no python3")
            return
        }
        try withTemporaryDirectory { folder throws in
            let environment = Machine.environment + ["PIP_NO_INDEX=1", "PIP_CONFIG_FILE=/dev/null"]
            let error = #expect(throws: DatasetError.self) {
                try DigitsSource(python: python, environment: environment).fetch(into: folder)
            }
            guard error?.code != .noTool else {
                print("skipped: no pip")
                return
            }
            #expect(error?.code == .noNetwork)
            #expect(error?.exitCode == .unreachable)
            #expect(error?.message.contains("pip could not download scikit-learn==1.5.2: ERROR") == true)
            #expect(try Files.list(folder).isEmpty)
        }
    }
}
