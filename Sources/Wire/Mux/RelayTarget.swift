public import Basics

/// What a relayed stream leads to: never an address, so that no side can ask for one that is not its own.
public struct RelayTarget: Hashable, Sendable, CustomStringConvertible {
    /// What it is there.
    public enum Place: Hashable, Sendable {
        /// A trainer that the agent started, by its number in the run.
        case trainer(RunID, member: Int)
        /// The agent's listener for measurements.
        case probe
    }

    /// The host whose agent connects.
    public var host: String
    /// What it connects to.
    public var place: Place

    /// A place on a host.
    public init(host: String, place: Place) {
        self.host = host
        self.place = place
    }

    /// `gpu2: trainer 3 of run 2026…`.
    public var description: String {
        switch place {
        case .trainer(let run, let member): "\(host): trainer \(member) of run \(run)"
        case .probe: "\(host): measurement"
        }
    }

    /// The bytes in an OPEN frame: kind u8, host, and for a trainer (1) its run and number u32.
    var bytes: [UInt8] {
        var writer = ByteWriter()
        switch place {
        case .trainer(let run, let member):
            writer.write(UInt8(1))
            writer.write(host)
            writer.write(run.text)
            writer.write(UInt32(member))
        case .probe:
            writer.write(UInt8(2))
            writer.write(host)
        }
        return writer.bytes
    }

    /// Reads what somebody else wrote; nil when it is no target.
    init?(_ bytes: [UInt8]) {
        var reader = ByteReader(bytes)
        guard let kind = try? reader.read(UInt8.self), let host = try? reader.readString() else { return nil }
        self.host = host
        switch kind {
        case 1:
            guard let run = (try? reader.readString()).flatMap({ RunID($0) }),
                let member = try? reader.read(UInt32.self)
            else { return nil }
            place = .trainer(run, member: Int(member))
        case 2: place = .probe
        default: return nil
        }
        guard reader.remaining == 0 else { return nil }
    }
}

/// A numeric address with a port: `127.0.0.1:4711`, `[::1]:4711`.
struct NumericAddress: Hashable, Sendable {
    var host: String
    var port: UInt16

    init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        guard !host.isEmpty else { return nil }
        self.host = String(host)
        self.port = port
    }
}
