/// A way for two members to be joined by byte streams: TCP, sockets inside one process, later relays and shared memory.
///
/// Every transport passes the conformance suite in `Tests/CollectivesTests`.
public protocol Transport: Sendable {
    /// Opens a place where others can connect.
    ///
    /// - Parameter address: in the transport's own notation; see the transport.
    /// - Throws: ``CollectivesError`` `.badAddress`, `.system`.
    func listen(at address: String) throws(CollectivesError) -> any Listener

    /// Starts to connect, without waiting.
    ///
    /// The link's descriptor becomes writable once it stands; a refusal shows as a failed read or write.
    /// - Throws: ``CollectivesError`` `.badAddress`, `.peerLost`, `.system`.
    func connect(to address: String) throws(CollectivesError) -> any Link

    /// Whether some of its links pass descriptors, so that an ``Endpoint`` keeps memory to share.
    var sharesMemory: Bool { get }
}

extension Transport {
    /// False: bytes only.
    public var sharesMemory: Bool { false }
}

/// A place where others connect; owned by an ``Endpoint``, whose thread alone accepts.
public protocol Listener: Sendable {
    /// Where others reach it, with the port that was given.
    var address: String { get }
    /// Readable (`poll`) while connections wait.
    var descriptor: Int32 { get }
    /// Takes a waiting connection, nil when none waits; never blocks.
    func accept() -> (any Link)?
    /// Ends it; call once, after the last use of the descriptor.
    func close()
}

/// What one call moved.
public enum LinkProgress: Sendable, Equatable {
    /// So many bytes, at least one.
    case moved(Int)
    /// Nothing now; poll the descriptor.
    case wouldBlock
    /// The other side ended the stream.
    case ended
    /// The stream is broken: a system error number.
    case failed(Int32)
}

/// A connected, ordered stream of bytes between two members; nonblocking.
///
/// Used by one thread at a time.
public protocol Link: Sendable {
    /// What `poll` waits on.
    var descriptor: Int32 { get }
    /// Reads into `first`, then into `second`; at least one of them is not empty.
    func receive(
        into first: UnsafeMutableRawBufferPointer,
        and second: UnsafeMutableRawBufferPointer
    )
        -> LinkProgress
    /// Writes `first`, then `second`; at least one of them is not empty.
    func send(_ first: UnsafeRawBufferPointer, and second: UnsafeRawBufferPointer) -> LinkProgress
    /// Whether the bytes never leave this machine, or go through something here that answers for them.
    var staysOnMachine: Bool { get }
    /// Whether nobody on the way can read or change the bytes.
    var isSealed: Bool { get }
    /// Whether bytes that `send` took still wait here; ``flush()`` writes them.
    var hasUnsent: Bool { get }
    /// Whether bytes have come that `poll` does not show any more.
    var hasUnread: Bool { get }
    /// Writes what waits here.
    func flush() -> LinkProgress
    /// Flips a bit of what is sealed next, behind the seal; for drills.
    func damageNext()
    /// Whether both ends are on one machine and can hand each other descriptors.
    var passesDescriptors: Bool { get }
    /// Writes bytes with descriptors beside the first of them.
    func pass(_ descriptors: [Int32], with bytes: UnsafeRawBufferPointer) -> LinkProgress
    /// Reads bytes and whatever descriptors came with them, at most four; the caller closes these.
    func take(_ bytes: UnsafeMutableRawBufferPointer) -> (progress: LinkProgress, descriptors: [Int32])
    /// Tells the other side that nothing more comes; reading goes on.
    func finishSending()
    /// Ends the stream; call once, after the last use of the descriptor.
    func close()
}

extension Link {
    /// True: only sockets know better.
    public var staysOnMachine: Bool { true }
    /// False: bytes go as they are.
    public var isSealed: Bool { false }
    /// False: what was taken is on its way.
    public var hasUnsent: Bool { false }
    /// False: `poll` shows all.
    public var hasUnread: Bool { false }
    /// Nothing waits.
    public func flush() -> LinkProgress { .wouldBlock }
    /// Nothing is sealed here.
    public func damageNext() {}
    /// False: bytes only.
    public var passesDescriptors: Bool { false }
    /// Writes the bytes alone.
    public func pass(_ descriptors: [Int32], with bytes: UnsafeRawBufferPointer) -> LinkProgress {
        send(bytes, and: UnsafeRawBufferPointer(start: nil, count: 0))
    }
    /// Reads bytes alone.
    public func take(
        _ bytes: UnsafeMutableRawBufferPointer
    ) -> (progress: LinkProgress, descriptors: [Int32]) {
        (receive(into: bytes, and: UnsafeMutableRawBufferPointer(start: nil, count: 0)), [])
    }
}
