import Basics
import CoordTesting
import Glibc
import Remote
import Synchronization
import Testing

@testable import Coordinator

@Suite(.timeLimit(.minutes(5))) struct WorkerUploadTests {
    private func makeWorker(_ folder: String, size: Int) throws -> (WorkerBinary, [UInt8]) {
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) }
        try Files.writeAtomically(bytes, to: folder + "/worker")
        let binary = WorkerBinary(
            path: folder + "/worker",
            digest: Digest(of: bytes),
            size: ByteCount(Int64(size))
        )
        return (binary, bytes)
    }

    @Test func aCutUploadGoesOnWhereItWas() throws {
        try withTemporaryDirectory { folder in
            let (worker, bytes) = try makeWorker(folder, size: (10 << 20) + 77)
            // Cut after 1 MiB of the first part, then within the second, then at a part's end.
            let host = CutHost(after: [1 << 20, (5 << 20) + 3, 4 << 20])
            let program = folder + "/a 'b/bin/coord-worker"
            let upload = WorkerUpload(host: host, worker: worker, program: program)
            let seen = Mutex<[Int64]>([])
            try upload.run { count in seen.withLock { $0.append(count.bytes) } }
            #expect(try Files.read(program) == bytes)
            #expect(try Files.list(Files.parent(program)) == ["coord-worker"])
            #expect(seen.withLock { $0.last } == Int64(bytes.count))
            #expect(host.cuts == 3)
            // Each cut lost nothing that had arrived.
            #expect(host.arrived == bytes.count)
        }
    }

    @Test func aLineThatBreaksWithinEachPartGetsThereInTheEnd() throws {
        try withTemporaryDirectory { folder in
            let (worker, bytes) = try makeWorker(folder, size: 3 << 20)
            // More often than a line may break without anything arriving; not a single part arrives in one go.
            let host = CutHost(after: [Int](repeating: 300_000, count: 9))
            let program = folder + "/coord-worker"
            try WorkerUpload(host: host, worker: worker, program: program).run { _ in }
            #expect(try Files.read(program) == bytes)
            #expect(host.cuts == 9)
            #expect(host.arrived == bytes.count)
        }
    }

    @Test func whatIsThereOfAnotherFileIsSentAnew() throws {
        try withTemporaryDirectory { folder in
            let (worker, bytes) = try makeWorker(folder, size: 5 << 20)
            let program = folder + "/bin/coord-worker"
            try Files.createDirectory(folder + "/bin")
            for leftover in [[1, 2, 3], bytes + [1], Array(bytes.dropLast(9)) + [0]] as [[UInt8]] {
                try Files.writeAtomically(leftover, to: program + ".part")
                try WorkerUpload(host: LocalHost(), worker: worker, program: program).run { _ in }
                #expect(try Files.read(program) == bytes)
            }
            // A whole one that only lacks its name is not sent again.
            try Files.writeAtomically(bytes, to: program + ".part")
            let host = CutHost(after: [])
            try WorkerUpload(host: host, worker: worker, program: program).run { _ in }
            #expect(host.arrived == 0)
        }
    }

    @Test func whatAShellCouldTripOverArrivesExecutable() throws {
        try withTemporaryDirectory { folder in
            let (worker, bytes) = try makeWorker(folder, size: 3_333_333)
            let program = folder + "/new folder/it's $HOME `x` \\ \"q\""
            try WorkerUpload(host: LocalHost(), worker: worker, program: program).run { _ in }
            #expect(try Files.read(program) == bytes)
            var info = stat()
            #expect(stat(program, &info) == 0)
            #expect(info.st_mode & 0o7777 == 0o755)
            #expect(try Files.list(Files.parent(program)).count == 1, "no temporary file is left")
        }
    }

    @Test func whatIsInTheWayIsNamedAndStays() throws {
        try withTemporaryDirectory { folder in
            let (worker, _) = try makeWorker(folder, size: 100)
            func refused(_ program: String) -> CoordinatorError? {
                #expect(throws: CoordinatorError.self) {
                    try WorkerUpload(host: LocalHost(), worker: worker, program: program).run { _ in }
                }
            }
            // A folder in the program's place, and a file in that of the folder above it.
            try Files.createDirectory(folder + "/bin/coord-worker")
            let first = refused(folder + "/bin/coord-worker")
            #expect(first?.message.contains("the target is a folder") == true)
            #expect(first?.exitCode == .cannotWrite)
            #expect(try Files.list(folder + "/bin") == ["coord-worker"])
            try Files.writeAtomically("file", to: folder + "/blocked")
            #expect(refused(folder + "/blocked/x/coord-worker")?.exitCode == .cannotWrite)
            #expect(try Files.readText(folder + "/blocked") == "file")
        }
    }

    @Test func linksInTheWayAreReplacedNotFollowed() throws {
        try withTemporaryDirectory { folder in
            let (worker, bytes) = try makeWorker(folder, size: 100)
            try Files.writeAtomically("victim", to: folder + "/victim")
            for link in ["coord-worker", "coord-worker.part"] {
                #expect(symlink(folder + "/victim", folder + "/" + link) == 0)
            }
            try WorkerUpload(host: LocalHost(), worker: worker, program: folder + "/coord-worker").run { _ in
            }
            #expect(try Files.readText(folder + "/victim") == "victim")
            #expect(try Files.read(folder + "/coord-worker") == bytes)
            #expect(Files.kind(folder + "/coord-worker.part") == nil)
        }
    }

    @Test func aHostThatStaysAwayIsAnErrorAfterAFewTries() throws {
        try withTemporaryDirectory { folder in
            let (worker, _) = try makeWorker(folder, size: 100)
            let host = CutHost(after: [Int](repeating: 0, count: 100))
            let upload = WorkerUpload(host: host, worker: worker, program: folder + "/coord-worker")
            let error = #expect(throws: RemoteError.self) { try upload.run { _ in } }
            #expect(error?.exitCode == .unreachable)
            #expect(host.cuts == 4)
        }
    }

    @Test func aMissingWorkerIsNamedWithHowToBuildIt() throws {
        try withTemporaryDirectory { folder in
            let workspace = try Workspace(directory: folder)
            let error = #expect(throws: CoordinatorError.self) {
                try workspace.worker("riscv64-unknown-linux-gnu")
            }
            #expect(error?.message.contains("no coord-worker for riscv64-unknown-linux-gnu") == true)
            #expect(error?.message.contains("/riscv64-unknown-linux-gnu/coord-worker") == true)
            #expect(error?.hint?.contains("scripts/build-worker") == true)
        }
    }
}

/// This machine behind a connection that breaks after given numbers of input bytes, counted from the last break.
private final class CutHost: Remote.Host {
    private struct State {
        var places: [Int]
        var since = 0
        var cuts = 0
        var arrived = 0
    }

    private let inner = LocalHost(name: "flaky")
    private let state: Mutex<State>
    var name: String { inner.name }
    var cuts: Int { state.withLock { $0.cuts } }
    var arrived: Int { state.withLock { $0.arrived } }

    init(after places: [Int]) { state = Mutex(State(places: places)) }

    func run(_ command: String, input: [UInt8], silence: Duration) throws -> CommandResult {
        try run(command, input: input, timeout: silence)
    }

    func run(
        _ command: String,
        input: [UInt8],
        timeout: Duration,
        limit: Int
    ) throws -> CommandResult {
        let (count, isCut) = state.withLock { state -> (Int, Bool) in
            if let place = state.places.first, place <= state.since + input.count,
                !input.isEmpty || place == 0
            {
                state.places.removeFirst()
                let count = place - state.since
                state.since = 0
                state.cuts += 1
                state.arrived += count
                return (count, true)
            }
            state.since += input.count
            state.arrived += input.count
            return (input.count, false)
        }
        let result = try inner.run(command, input: Array(input[..<count]), timeout: timeout, limit: limit)
        if isCut {
            throw RemoteError(
                host: name,
                phase: .stream,
                code: .connectionLost,
                message: "the connection to \(name) broke"
            )
        }
        return result
    }

    func openStream(_ command: String, onEnd: (@Sendable (StreamEnd) -> Void)?) throws -> Int32 {
        try inner.openStream(command, onEnd: onEnd)
    }

    func openStreams(
        _ command: String,
        count: Int,
        connections: Int,
        onEnd: (@Sendable (_ index: Int, _ end: StreamEnd) -> Void)?
    ) throws -> [Int32] {
        try inner.openStreams(command, count: count, connections: connections, onEnd: onEnd)
    }

    func close() { inner.close() }
}
