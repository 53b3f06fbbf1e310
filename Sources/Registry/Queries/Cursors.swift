public import Basics
internal import GRDB

extension RegistrySnapshot {
    /// The number of the last event of an agent that was applied; 0 before the first.
    ///
    /// - Parameters:
    ///   - run: the run that the events are about; nil for the agent's own.
    ///   - spool: the id of the agent's spool. A new spool counts from 1 again.
    public func cursor(host: String, run: RunID?, spool: String = "") throws -> Int64 {
        try integer(
            "SELECT sequence FROM agent_cursors WHERE host = ? AND run = ? AND spool = ?",
            [host, run?.text ?? "", spool]
        ) ?? 0
    }
}

extension Registry {
    /// Applies events of an agent exactly once: their effect and the cursor move in one transaction.
    ///
    /// After a crash an agent sends again what was not acknowledged; acknowledge only after this returned.
    ///
    /// - Parameters:
    ///   - sequence: the number of the last event in hand; numbers start at 1.
    ///   - body: gets the cursor as it was and applies only events with larger numbers. Not called when
    ///     everything through `sequence` was applied before.
    /// - Returns: whether anything was new.
    /// - Throws: what `body` throws, then nothing moved; ``RegistryError`` as ``Registry/write(_:)``.
    @discardableResult
    public func apply(
        host: String,
        run: RunID?,
        spool: String = "",
        through sequence: Int64,
        _ body: (_ transaction: RegistryTransaction, _ after: Int64) throws -> Void
    ) throws -> Bool {
        try write { transaction in
            let cursor = try transaction.cursor(host: host, run: run, spool: spool)
            guard try transaction.advance(host: host, run: run, spool: spool, through: sequence) else {
                return false
            }
            try body(transaction, cursor)
            return true
        }
    }
}

extension RegistryTransaction {
    /// Moves an agent's cursor, in one transaction with the effect of its event.
    ///
    /// - Returns: false, and nothing moved, when everything through `sequence` was applied before.
    public func advance(host: String, run: RunID?, spool: String = "", through sequence: Int64) throws -> Bool
    {
        guard try sequence > cursor(host: host, run: run, spool: spool) else { return false }
        try upsert(
            "agent_cursors",
            key: ["host", "run", "spool"],
            [("host", host), ("run", run?.text ?? ""), ("spool", spool), ("sequence", sequence)]
        )
        return true
    }
}
