internal import Basics
internal import GRDB
internal import Synchronization

/// The coordinator's memory: hosts, datasets, runs, metrics, checkpoints, model versions, releases and events.
///
/// One SQLite file in WAL mode, each commit on disk before it is acknowledged (`synchronous = FULL`). It never
/// holds bytes of models. The coordinator opens it read-write; any number of commands read it at the same time,
/// also after the coordinator was killed. All methods block: callers bring a thread that may wait for a disk.
/// Times are Unix seconds that the caller passes in.
public final class Registry: Sendable {
    /// The usual name of the file.
    public static let fileName = "registry.sqlite"

    /// What may be done with the file.
    public enum Access: Sendable {
        /// Creates the file when it is missing, brings its schema up to date, reads and writes.
        case readWrite
        /// Reads a file that exists, beside a writer or without one.
        case readOnly
    }

    /// Where the file is.
    public let path: String
    let reader: any DatabaseReader
    let writer: (any DatabaseWriter)?
    private let isOpen = Atomic(true)

    /// Opens the registry at `path`.
    ///
    /// - Throws: ``RegistryError`` `.missing` (read-only), `.corrupt`, `.newerSchema`, `.olderSchema` (read-only),
    ///   `.cannotWrite`, `.locked`.
    /// - Cost: one migration check; recovery of a WAL that a killed process left, in proportion to its length.
    public init(path: String, access: Access) throws {
        self.path = path
        var configuration = Configuration()
        configuration.label = "registry"
        configuration.foreignKeysEnabled = true
        configuration.busyMode = .timeout(5)
        do {
            switch access {
            case .readWrite:
                let pool = try DatabasePool(path: path, configuration: configuration)
                // GRDB's pool chooses NORMAL, which may lose the last commits at a power cut.
                try pool.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
                try Self.refuseNewer(pool, path: path)
                try RegistrySchema.migrator.migrate(pool)
                reader = pool
                writer = pool
            case .readOnly:
                guard Files.kind(path) != nil else {
                    throw RegistryError(
                        .missing,
                        "there is no registry at \(path)",
                        hint: "run `coord up` to make one"
                    )
                }
                configuration.readonly = true
                let queue = try DatabaseQueue(path: path, configuration: configuration)
                try Self.refuseNewer(queue, path: path)
                guard try queue.read(RegistrySchema.migrator.hasCompletedMigrations) else {
                    throw RegistryError(
                        .olderSchema,
                        "\(path) was written by an older coord",
                        hint: "run `coord up` to bring it up to date"
                    )
                }
                reader = queue
                writer = nil
            }
        } catch let error as DatabaseError {
            throw RegistryError(error, path: path)
        }
    }

    /// Reads; all that `body` sees belongs to one moment.
    ///
    /// The snapshot is valid only inside `body`.
    public func read<Value>(_ body: (RegistrySnapshot) throws -> Value) throws -> Value {
        try explained { try reader.read { try body(RegistrySnapshot($0, path: path)) } }
    }

    /// Changes; all that `body` does happens, or nothing of it when `body` throws or the machine stops.
    ///
    /// The transaction is valid only inside `body`. One writer at a time: others wait up to 5 s.
    ///
    /// - Throws: what `body` throws; ``RegistryError`` `.cannotWrite`, `.locked`, `.corrupt`, `.conflict`.
    /// - Cost: one fsync.
    public func write<Value>(_ body: (RegistryTransaction) throws -> Value) throws -> Value {
        guard let writer else {
            throw RegistryError(.misuse, "\(path) was opened read-only and cannot be changed")
        }
        return try explained { try writer.write { try body(RegistryTransaction($0, path: path)) } }
    }

    /// Closes the file, after moving what is in the WAL into it as far as readers let it.
    ///
    /// Closing again does nothing; reading or writing afterwards is an error.
    public func close() throws {
        // SQLite crashes when it checkpoints a connection that is closed.
        guard isOpen.exchange(false, ordering: .acquiringAndReleasing) else { return }
        try explained {
            // GRDB's pool closes its readers last, and those cannot do it.
            if let writer { _ = try writer.writeWithoutTransaction { try $0.checkpoint(.passive) } }
            try reader.close()
        }
    }

    private func explained<Value>(_ body: () throws -> Value) throws -> Value {
        do {
            return try body()
        } catch let error as DatabaseError {
            throw RegistryError(error, path: path)
        } catch let error as RowDecodingError {
            throw RegistryError.damaged(path, "\(error)")
        }
    }

    private static func refuseNewer(_ database: any DatabaseReader, path: String) throws {
        guard try !database.read(RegistrySchema.migrator.hasBeenSuperseded) else {
            throw RegistryError(
                .newerSchema,
                "\(path) was written by a newer coord",
                hint: "use that version of coord, or a newer one"
            )
        }
    }
}

/// What the registry held at one moment.
///
/// Methods are grouped by subject in `Queries/`. Belongs to the thread that runs the `read` or `write` block, and
/// ends with it.
public class RegistrySnapshot {
    let database: Database
    let path: String

    init(_ database: Database, path: String) {
        self.database = database
        self.path = path
    }

    func rows(_ sql: String, _ arguments: [(any DatabaseValueConvertible)?] = []) throws -> [Row] {
        try Row.fetchAll(database.cachedStatement(sql: sql), arguments: StatementArguments(arguments))
    }

    func row(_ sql: String, _ arguments: [(any DatabaseValueConvertible)?] = []) throws -> Row? {
        try Row.fetchOne(database.cachedStatement(sql: sql), arguments: StatementArguments(arguments))
    }

    func integer(_ sql: String, _ arguments: [(any DatabaseValueConvertible)?] = []) throws -> Int64? {
        try Int64.fetchOne(database.cachedStatement(sql: sql), arguments: StatementArguments(arguments))
    }
}

/// A change of the registry that happens as a whole or not at all; it reads its own writes.
public final class RegistryTransaction: RegistrySnapshot {
    typealias Columns = [(name: String, value: (any DatabaseValueConvertible)?)]

    func execute(_ sql: String, _ arguments: [(any DatabaseValueConvertible)?] = []) throws {
        try database.cachedStatement(sql: sql).execute(arguments: StatementArguments(arguments))
    }

    /// Inserts, or replaces the columns that are not in `key` when a row with that key is there.
    func upsert(_ table: String, key: [String], _ columns: Columns) throws {
        let names = columns.map(\.name)
        let changed = names.filter { !key.contains($0) }.map { "\($0) = excluded.\($0)" }
        let conflict = changed.isEmpty ? "NOTHING" : "UPDATE SET \(changed.joined(separator: ", "))"
        let sql =
            "\(Self.insertion(table, names)) ON CONFLICT (\(key.joined(separator: ", "))) DO \(conflict)"
        try execute(sql, columns.map(\.value))
    }

    func insert(_ table: String, _ columns: Columns) throws {
        try execute(Self.insertion(table, columns.map(\.name)), columns.map(\.value))
    }

    private static func insertion(_ table: String, _ names: [String]) -> String {
        let marks = Array(repeating: "?", count: names.count).joined(separator: ", ")
        return "INSERT INTO \(table) (\(names.joined(separator: ", "))) VALUES (\(marks))"
    }
}
