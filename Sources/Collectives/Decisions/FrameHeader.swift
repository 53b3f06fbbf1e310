internal import Basics
internal import CShims

/// The 64 bytes before each payload; little endian, layout in `docs/formats/collectives.md`.
struct FrameHeader: Hashable, Sendable {
    /// What a frame carries.
    enum Kind: UInt8, Sendable {
        /// Values of one subtree for the owner of a segment.
        case contribution = 1
        /// Summed values from the owner of a segment.
        case result = 2
        /// Lane rows of the sender.
        case laneValues = 3
        /// The digest of the complete result: the sender holds it.
        case ready = 4
        /// A sign of life.
        case beat = 5
        /// The sender gives up: code and blamed ranks.
        case abort = 6
        /// The sender leaves on purpose.
        case bye = 7
        /// As a contribution, which stands in the sender's memory.
        case contributionPlace = 8
        /// As a result, which stands in the sender's memory.
        case resultPlace = 9
    }

    static let byteCount = 64
    /// No frame carries more.
    static let maxPayload = 262_144
    static let magic: UInt32 = 0x464C_4343  // "CCLF"
    static let version: UInt8 = 3

    var kind: Kind
    var run: UInt64
    var generation: UInt32
    var sender: UInt32
    /// How the operation's values travel: ``PayloadCodec/wire``.
    var codec: UInt16 = 0
    var operation: UInt64 = 0
    var segment: UInt32 = 0
    var subtreeStart: UInt16 = 0
    var subtreeLevel: UInt16 = 0
    /// The index of the first value in the whole array (of rows: of doubles among the sender's rows).
    var offset: UInt32 = 0
    /// N of the operation.
    var elements: UInt32 = 0
    /// W of the operation.
    var width: UInt32 = 0
    /// What the operation does: ``OperationForm/wire``.
    var form: UInt32 = 0
    /// Bytes of payload.
    var length: UInt32 = 0
    /// CRC-32C over the header up to here, begun with the payload's ``ResultFingerprint/folded``.
    var checksum: UInt32 = 0

    init(kind: Kind, run: UInt64, generation: UInt32, sender: UInt32) {
        self.kind = kind
        self.run = run
        self.generation = generation
        self.sender = sender
    }

    /// Writes 64 bytes, the checksum computed.
    ///
    /// - Parameters:
    ///   - payload: what will follow; its length is set here.
    ///   - checked: false leaves the checksum 0, for links that are sealed as they are.
    ///   - known: what ``fingerprint(of:)`` gives for the payload, where somebody has computed it already.
    mutating func seal(
        into target: UnsafeMutableRawBufferPointer,
        payload: UnsafeRawBufferPointer,
        checked: Bool = true,
        known: ResultFingerprint? = nil
    ) {
        length = UInt32(payload.count)
        store(into: target)
        guard checked else { return }
        checksum = Self.check(target.baseAddress, known ?? fingerprint(of: payload))
        target.storeBytes(of: checksum.littleEndian, toByteOffset: 60, as: UInt32.self)
    }

    /// Tells whether payload and header are as they were sealed.
    ///
    /// - Parameters:
    ///   - bytes: the header, as it came.
    ///   - fingerprint: of the payload that came.
    static func isIntact(_ bytes: UnsafeRawBufferPointer, _ fingerprint: ResultFingerprint) -> Bool {
        let stored = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 60, as: UInt32.self))
        return check(bytes.baseAddress, fingerprint) == stored
    }

    /// The fingerprint of the payload; that of a result is a part of the whole result's, so neither owner nor receiver
    /// reads the values once more for it.
    func fingerprint(of payload: UnsafeRawBufferPointer) -> ResultFingerprint {
        var fingerprint = ResultFingerprint()
        guard let base = payload.baseAddress else { return fingerprint }
        let size = ElementType(rawValue: UInt8(form & 15))?.byteCount ?? 1
        fingerprint.add(
            base,
            from: kind == .result && codec == 0 ? Int(offset) * size : 0,
            count: payload.count
        )
        return fingerprint
    }

    private static func check(_ bytes: UnsafeRawPointer?, _ fingerprint: ResultFingerprint) -> UInt32 {
        coord_crc32c(fingerprint.folded, bytes, 60)
    }

    private func store(into target: UnsafeMutableRawBufferPointer) {
        precondition(target.count >= Self.byteCount)
        func put<Value: FixedWidthInteger>(_ value: Value, _ at: Int) {
            target.storeBytes(of: value.littleEndian, toByteOffset: at, as: Value.self)
        }
        put(Self.magic, 0)
        put(Self.version, 4)
        put(kind.rawValue, 5)
        put(codec, 6)
        put(run, 8)
        put(generation, 16)
        put(sender, 20)
        put(operation, 24)
        put(segment, 32)
        put(subtreeStart, 36)
        put(subtreeLevel, 38)
        put(offset, 40)
        put(elements, 44)
        put(width, 48)
        put(form, 52)
        put(length, 56)
        put(checksum, 60)
    }

    /// Reads 64 bytes from somebody else.
    ///
    /// - Throws: `.badFrame` for another magic, version or kind, or too long a payload.
    init(parsing source: UnsafeRawBufferPointer) throws(CollectivesError) {
        precondition(source.count >= Self.byteCount)
        func get<Value: FixedWidthInteger>(_ type: Value.Type, _ at: Int) -> Value {
            Value(littleEndian: source.loadUnaligned(fromByteOffset: at, as: type))
        }
        guard get(UInt32.self, 0) == Self.magic, get(UInt8.self, 4) == Self.version else {
            throw CollectivesError(.badFrame, "a frame starts with other bytes than this version's")
        }
        guard let kind = Kind(rawValue: get(UInt8.self, 5)) else {
            throw CollectivesError(.badFrame, "a frame is of unknown kind \(get(UInt8.self, 5))")
        }
        self.init(
            kind: kind,
            run: get(UInt64.self, 8),
            generation: get(UInt32.self, 16),
            sender: get(UInt32.self, 20)
        )
        codec = get(UInt16.self, 6)
        operation = get(UInt64.self, 24)
        segment = get(UInt32.self, 32)
        subtreeStart = get(UInt16.self, 36)
        subtreeLevel = get(UInt16.self, 38)
        offset = get(UInt32.self, 40)
        elements = get(UInt32.self, 44)
        width = get(UInt32.self, 48)
        form = get(UInt32.self, 52)
        length = get(UInt32.self, 56)
        checksum = get(UInt32.self, 60)
        guard length <= Self.maxPayload else {
            throw CollectivesError(.badFrame, "a frame claims \(length) bytes, more than \(Self.maxPayload)")
        }
    }

    /// The first 8 bytes of the digest of a run id.
    static func runNumber(_ run: RunID) -> UInt64 {
        Digest(of: run.text).raw.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}
