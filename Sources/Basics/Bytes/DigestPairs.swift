internal import CShims
internal import Crypto

// Hashes of independent bytes, two at a time: where the CPU has instructions for SHA-256 that takes little more than half
// of the time, because one hash alone waits for itself.

extension Digest {
    /// Hashes several pieces, each by itself.
    public static func each(of pieces: [UnsafeRawBufferPointer]) -> [Digest] {
        guard HashLanes.isAvailable, pieces.count > 1 else { return pieces.map { Digest(of: $0) } }
        var lanes = HashLanes(count: pieces.count)
        lanes.update(pieces)
        return (0..<pieces.count).map { lanes.finish($0) }
    }
}

/// Hashes a stream that is cut into pieces: the whole and each of the pieces.
public struct CutDigestBuilder {
    private enum State {
        case paired(HashLanes)
        case alone(DigestBuilder)
    }

    private var state: State

    /// Starts an empty stream.
    public init() { self.init(paired: HashLanes.isAvailable) }

    /// - Parameter paired: false takes the way of CPUs without the instructions.
    init(paired: Bool) { state = paired ? .paired(HashLanes(count: 1)) : .alone(DigestBuilder()) }

    /// Adds bytes that are cut into pieces.
    ///
    /// - Parameter cuts: one behind the other, the first from 0; the last ends where the added bytes end.
    /// - Returns: the pieces' digests.
    public mutating func update(_ bytes: UnsafeRawBufferPointer, cuts: [Range<Int>]) -> [Digest] {
        let pieces = cuts.map { UnsafeRawBufferPointer(rebasing: bytes[$0]) }
        let all = UnsafeRawBufferPointer(rebasing: bytes[..<(cuts.last?.upperBound ?? 0)])
        switch state {
        case .alone(var whole):
            whole.update(all)
            state = .alone(whole)
            return Digest.each(of: pieces)
        case .paired(let whole):
            var lanes = HashLanes(count: 1 + pieces.count)
            lanes[0] = whole[0]
            lanes.update([all] + pieces)
            var first = HashLanes(count: 1)
            first[0] = lanes[0]
            state = .paired(first)
            return (0..<pieces.count).map { lanes.finish(1 + $0) }
        }
    }

    /// The digest of all bytes so far.
    public func finish() -> Digest {
        switch state {
        case .alone(let whole): return whole.finish()
        case .paired(var whole): return whole.finish(0)
        }
    }
}

/// Hashes that take bytes side by side.
private struct HashLanes {
    static let isAvailable = coord_hash_is_available() != 0

    private var hashes: [coord_hash]

    init(count: Int) {
        var fresh = coord_hash()
        coord_hash_start(&fresh)
        hashes = Array(repeating: fresh, count: count)
    }

    subscript(index: Int) -> coord_hash {
        get { hashes[index] }
        set { hashes[index] = newValue }
    }

    /// The n-th piece goes to the n-th hash.
    mutating func update(_ pieces: [UnsafeRawBufferPointer]) {
        precondition(pieces.count == hashes.count, "\(pieces.count) pieces for \(hashes.count) hashes")
        hashes.withUnsafeMutableBufferPointer { hashes in
            let jobs = pieces.enumerated().map { index, piece in
                coord_hash_job(
                    hash: hashes.baseAddress.map { $0 + index },
                    bytes: piece.baseAddress?.assumingMemoryBound(to: UInt8.self),
                    count: piece.count
                )
            }
            coord_hash_update(jobs, jobs.count)
        }
    }

    mutating func finish(_ index: Int) -> Digest {
        var raw = [UInt8](repeating: 0, count: 32)
        coord_hash_finish(&hashes[index], &raw)
        return raw.withUnsafeBytes { Digest(raw: $0) }
    }
}
