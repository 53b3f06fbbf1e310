internal import Basics

/// Runs `body` with the path of a new, empty folder, which is removed afterwards.
public func withTemporaryDirectory<R>(_ body: (String) throws -> R) rethrows -> R {
    let path: String
    do {
        path = try Files.makeTemporaryDirectory(prefix: "coord-test")
    } catch {
        preconditionFailure("no temporary folder: \(error)")
    }
    // What is left behind lies in the system's folder for temporary files; no test depends on it.
    defer { try? Files.remove(path) }
    return try body(path)
}
