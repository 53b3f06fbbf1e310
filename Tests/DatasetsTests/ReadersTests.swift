import Basics
import CoordTesting
import Datasets
import Testing

@Suite struct CSVReaderTests {
    private func read(_ text: String, _ options: CSVOptions = CSVOptions()) throws -> SampleTable {
        try CSVReader.read(Array(text.utf8), named: "data.csv", options: options)
    }

    @Test func numbersAndALabelMakeSamples() throws {
        let table = try read("0,5,255,cat\n1,2,3,ant\r\n\n 4 , 5 ,\t6, cat \n")
        #expect(table.type == .uint8)
        #expect(table.shape == [3])
        #expect(table.classes == ["ant", "cat"])
        #expect(table.labels == [1, 0, 1])
        #expect(table.values == [0, 5, 255, 1, 2, 3, 4, 5, 6])
        #expect(table.sources.map(\.name) == ["data.csv"])
    }

    @Test func anythingButWholeBytesIsStoredAsFloat() throws {
        for text in ["1,256,a\n", "0.5,1,a\n", "-1,2,a\n", "1e3,2,a\n"] {
            let table = try read(text)
            #expect(table.type == .float32)
            #expect(table.values.count == 8)
        }
        let table = try read("0.5,-0,a\n-2,1e-3,b\n")
        let floats = stride(from: 0, to: 16, by: 4).map { at in
            Float(
                bitPattern: (0..<4).reduce(UInt32(0)) {
                    $0 | UInt32(table.values[at + $1]) << (8 * UInt32($1))
                }
            )
        }
        #expect(floats == [0.5, 0, -2, 1e-3])
        #expect(floats[1].sign == .plus)
    }

    @Test func classesThatAreNumbersSortAsNumbers() throws {
        #expect(try read("1,10\n1,9\n1,-1\n").classes == ["-1", "9", "10"])
        #expect(try read("1,10\n1,9\n1,x\n").classes == ["10", "9", "x"])
        #expect(try read("1,7\n1,007\n").classes == ["007", "7"])
    }

    @Test func aHeaderIsSeenAndTheLabelFoundByItsName() throws {
        let text = "kind,width,\"the, \"\"height\"\"\"\nx,1,2\ny,3,4\n"
        let table = try read(text, CSVOptions(label: .named("kind")))
        #expect(table.labels == [0, 1])
        #expect(table.values == [1, 2, 3, 4])
        #expect(try read("width,label\n1,a\n").count == 1)
        #expect(try read("7,1,2\n", CSVOptions(label: .index(0))).classes == ["7"])
        #expect(try read("1,b,3\n", CSVOptions(label: .index(-2))).classes == ["b"])
        #expect(try read("1\tb\n", CSVOptions(separator: 0x09)).classes == ["b"])
        #expect(try read("5,x\n1,y\n", CSVOptions(header: .present)).count == 1)
    }

    @Test func givenClassesMayBeNumberedInTheFile() throws {
        let options = CSVOptions(classes: ["zero", "one", "two"])
        #expect(try read("1,2\n1,zero\n", options).labels == [2, 0])
        #expect(try read("1,2\n", CSVOptions(classes: ["2", "1"])).labels == [0])
    }

    @Test(arguments: [
        ("1,2,a\n1,x2,a\n", "data.csv:2: column 2 is 'x2', not a finite number"),
        ("1,2,a\n1,,a\n", "data.csv:2: column 2 is empty, not a finite number"),
        ("1,2,a\n1,nan,a\n", "data.csv:2: column 2 is 'nan', not a finite number"),
        ("1,2,a\n1,1e99,a\n", "data.csv:2: column 2 is '1e99', not a finite number"),
        ("1,2,a\n\n1,a\n", "data.csv:3: 2 columns, the first line has 3"),
        ("1,2,a\n1,2,3,a\n", "data.csv:2: 4 columns, the first line has 3"),
        ("1,2,a\n1,2,\n", "data.csv:2: column 3, the label, is empty"),
        ("1,2,\"a\n", "data.csv:1: a quote is not closed"),
        ("1,2,\"a\"b\n", "data.csv:1: there is text behind a closing quote"),
        ("1;2;a\n", "data.csv:1: one column only, a label and at least one value are needed"),
        ("", "data.csv holds no samples"),
        ("w,h,label\n", "data.csv holds no samples"),
    ])
    func badTextIsRefusedByFileAndLine(text: String, message: String) {
        let error = #expect(throws: DatasetError.self) { try read(text) }
        #expect(error?.code == .badInput)
        #expect(error?.message == message)
        #expect(error?.exitCode == .badInput)
    }

    @Test func badOptionsAreRefusedByWhatTheFileHas() {
        let cases: [(CSVOptions, DatasetError.Code, String)] = [
            (CSVOptions(classes: ["a"]), .badLabel, "data.csv:2: label 'b' is outside the classes a"),
            (
                CSVOptions(classes: ["u", "v"]), .badLabel,
                "data.csv:1: label 'a' is outside the classes u, v"
            ),
            (
                CSVOptions(shape: [1, 3, 3]), .badInput,
                "data.csv has 2 values a line, which are not the shape [1, 3, 3]"
            ),
            (CSVOptions(label: .index(3)), .badInput, "data.csv:1: there is no column 3, the line has 3"),
            (
                CSVOptions(label: .named("kind")), .badInput,
                "data.csv:1: the label column 'kind' is named, but the first line is no header"
            ),
            (
                CSVOptions(label: .named("kind"), header: .present), .badInput,
                "data.csv:1: there is no column 'kind'"
            ),
        ]
        for (options, code, message) in cases {
            let error = #expect(throws: DatasetError.self) { try read("1,2,a\n3,4,b\n", options) }
            #expect(error?.code == code)
            #expect(error?.message == message)
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func compressedFilesAreUnpackedAndDamagedOnesNamed() throws {
        try withTemporaryDirectory { folder throws in
            let path = folder + "/data.csv"
            try Files.writeAtomically("1,2,a\n3,4,b\n", to: path)
            let plain = try CSVReader.read(path)
            #expect(try ChildProcess.run(["/bin/sh", "-c", "gzip \"$0\"", path]).exit.isSuccess)
            let packed = try CSVReader.read(path + ".gz")
            #expect(packed.values == plain.values)
            #expect(packed.sources[0].sha256 == plain.sources[0].sha256)

            let bytes = try Files.read(path + ".gz")
            try Files.writeAtomically(Array(bytes.dropLast(6)), to: path + ".gz")
            let error = #expect(throws: DatasetError.self) { try CSVReader.read(path + ".gz") }
            #expect(error?.message.hasPrefix("\(path).gz cannot be unpacked: gzip: ") == true)
            #expect(throws: FileError.self) { try CSVReader.read(folder + "/none.csv") }
        }
    }
}

@Suite struct IDXReaderTests {
    private func idx(_ sizes: [UInt32], _ values: [UInt8]) -> [UInt8] {
        [0, 0, 8, UInt8(sizes.count)]
            + sizes.flatMap { size in (0..<4).map { UInt8(truncatingIfNeeded: size >> (24 - 8 * UInt32($0))) }
            }
            + values
    }

    private func withPair<R>(
        _ images: [UInt8],
        _ labels: [UInt8],
        _ body: (String, String) throws -> R
    ) rethrows -> R {
        try withTemporaryDirectory { folder throws in
            do {
                try Files.writeAtomically(images, to: folder + "/images")
                try Files.writeAtomically(labels, to: folder + "/labels")
            } catch {
                preconditionFailure("\(error)")
            }
            return try body(folder + "/images", folder + "/labels")
        }
    }

    @Test func imagesAndLabelsMakeSamples() throws {
        try withPair(idx([2, 2, 3], Array(0..<12)), idx([2], [3, 1])) {
            (images: String, labels: String) throws in
            let table = try IDXReader.read(images: images, labels: labels)
            #expect(table.shape == [1, 2, 3])
            #expect(table.classes == ["0", "1", "2", "3"])
            #expect(table.labels == [3, 1])
            #expect(table.values == Array(0..<12))
        }
        try withPair(idx([1, 3, 1, 2], Array(0..<6)), idx([1], [0])) {
            (images: String, labels: String) throws in
            #expect(try IDXReader.read(images: images, labels: labels).shape == [3, 1, 2])
        }
        try withPair(idx([1, 6], Array(0..<6)), idx([1], [0])) { (images: String, labels: String) throws in
            #expect(try IDXReader.read(images: images, labels: labels, classes: ["x"]).shape == [6])
        }
    }

    @Test func whatDoesNotFitIsRefusedByFileAndReason() {
        let images = idx([2, 2, 3], Array(0..<12))
        let labels = idx([2], [3, 1])
        let cases: [([UInt8], [UInt8], String)] = [
            (
                Array(images.dropLast()), labels,
                "images: truncated: 11 bytes of values, the header [2, 2, 3] asks for 12"
            ),
            (images + [1], labels, "images: too long: 13 bytes of values, the header [2, 2, 3] asks for 12"),
            (Array(images.prefix(9)), labels, "images: truncated: 9 bytes are no IDX header of rank 3"),
            ([0, 0], labels, "images: truncated: 2 bytes are no IDX header"),
            (labels, labels, "images: magic 00000801 is not that of IDX images: 000008 and a rank of 2 to 4"),
            (images, images, "labels: magic 00000803 is not that of IDX labels: 000008 and a rank of 1"),
            (
                [1] + images.dropFirst(), labels,
                "images: magic 01000803 is not that of IDX images: 000008 and a rank of 2 to 4"
            ),
            (images, idx([1], [3]), "images holds 2 images, LABELS holds 1 labels"),
            (idx([0, 2, 3], []), idx([0], []), "images holds no samples"),
            (
                idx([2, .max, .max], []), labels,
                "images: impossible sizes [2, 4294967295, 4294967295]"
            ),
            (
                idx([.max, .max, .max], []), labels,
                "images: impossible sizes [4294967295, 4294967295, 4294967295]"
            ),
        ]
        for (images, labels, message) in cases {
            withPair(images, labels) { imagePath, labelPath in
                let error = #expect(throws: DatasetError.self) {
                    try IDXReader.read(images: imagePath, labels: labelPath)
                }
                let folder = Files.parent(imagePath) + "/"
                let expected = folder + message.replacing("LABELS", with: labelPath)
                #expect(error?.code == .badInput)
                #expect(error?.message.hasPrefix(expected) == true, "\(error?.message ?? "") not \(expected)")
            }
        }
        withPair(images, labels) { imagePath, labelPath in
            let error = #expect(throws: DatasetError.self) {
                try IDXReader.read(images: imagePath, labels: labelPath, classes: ["a", "b"])
            }
            #expect(error?.code == .badLabel)
            #expect(error?.message == "\(labelPath): label 3 of sample 0 is outside the 2 classes")
        }
    }

    @Test func thePairOfAFolderIsFoundOrSaidToBeAmbiguous() throws {
        try withTemporaryDirectory { folder throws in
            for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte.gz"] {
                try Files.writeAtomically("", to: "\(folder)/\(name)")
            }
            let pair = try IDXReader.pair(in: folder, prefix: "train")
            #expect(Files.name(pair.images) == "train-images-idx3-ubyte")
            #expect(Files.name(pair.labels) == "train-labels-idx1-ubyte")
            let error = #expect(throws: DatasetError.self) { try IDXReader.pair(in: folder) }
            #expect(error?.message == "\(folder) holds 2 IDX files of images")
        }
    }
}
