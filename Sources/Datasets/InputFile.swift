internal import Basics

/// Reads source files, compressed or not.
enum InputFile {
    /// The content of a file, unpacked when its first two bytes are those of gzip.
    ///
    /// - Throws: ``DatasetError`` `.badInput` for a damaged file, `.noTool` where the system has no gzip;
    ///   `FileError`.
    static func read(_ path: String) throws -> [UInt8] {
        let bytes = try Files.read(path)
        guard bytes.starts(with: [0x1F, 0x8B]) else { return bytes }
        guard let gzip = Programs.find("gzip") else {
            throw DatasetError(
                .noTool,
                "\(path) is gzip-compressed, and there is no gzip program on this machine",
                hint: "install gzip, or unpack the file first"
            )
        }
        let (exit, output, errors) = try ChildProcess.run([gzip, "-dc"], input: bytes)
        guard exit.isSuccess else {
            let reason =
                String(decoding: errors, as: UTF8.self).split(separator: "\n")
                .first { !$0.allSatisfy(\.isWhitespace) } ?? "no reason given"
            throw DatasetError(
                .badInput,
                "\(path) cannot be unpacked: \(reason)",
                hint: "the file is damaged or not whole; fetch it again"
            )
        }
        return output
    }
}

/// Finds programs as a shell does.
enum Programs {
    /// The path of a program on `PATH`; nil when there is none.
    static func find(_ name: String) -> String? {
        let path = Machine.environment("PATH") ?? "/usr/local/bin:/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(name)" }.first { Files.kind($0) == .file }
    }
}
