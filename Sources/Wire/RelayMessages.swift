internal import Basics

/// What agents call the relay connection to the coordinator's machine; no host may be called so.
public let relayOverCoordinator = "@coordinator"

/// How the trainers of two hosts reach each other.
public struct PeerRoute: Codable, Sendable, Hashable {
    /// Who dials, or what carries the bytes.
    public enum Way: Codable, Sendable, Hashable {
        /// TCP; either side may dial.
        case direct
        /// TCP, which only this host can open.
        case dialled(by: String)
        /// Streams over SSH that meet on a host, nil = on the coordinator's machine.
        case relay(hub: String?)
    }

    /// One host: the one whose name comes first.
    public var first: String
    /// The other.
    public var second: String
    /// How they meet.
    public var way: Way
    /// The shortest round trip that was measured on it; unit: seconds; nil = nobody could, or an earlier build.
    public var roundTrip: Double?
    /// What was measured to go through it; nil as for the round trip.
    public var bytesPerSecond: Double?

    /// A pair of hosts, in any order, and how they meet.
    public init(
        _ one: String,
        _ other: String,
        _ way: Way,
        roundTrip: Double? = nil,
        bytesPerSecond: Double? = nil
    ) {
        first = min(one, other)
        second = max(one, other)
        self.way = way
        self.roundTrip = roundTrip
        self.bytesPerSecond = bytesPerSecond
    }

    /// True when the pair waits while the coordinator's machine is away.
    public var needsCoordinator: Bool { way == .relay(hub: nil) }

    /// No local network takes longer for a byte there and back; unit: seconds.
    private static let localRoundTrip = 0.005

    /// True when the pair is known to share a local network; what was not measured may be far apart.
    var isLocal: Bool {
        if case .relay = way { return false }
        return roundTrip.map { $0 <= Self.localRoundTrip } ?? false
    }
}

extension GenerationPlan {
    /// How two hosts meet; what nobody found out is direct.
    public func way(between one: String, and other: String) -> PeerRoute.Way {
        let pair = PeerRoute(one, other, .direct)
        return routes.first { $0.first == pair.first && $0.second == pair.second }?.way ?? .direct
    }

    /// The hosts of the members that add up for all; empty = each member adds up its part.
    public var sumHosts: [String] {
        Set(members.filter { owners.contains($0.member) }.map(\.host)).sorted()
    }

    /// The site of each member, by rank, where members of one host add up among themselves; else empty.
    ///
    /// Where some members add up for all, the others send to them as they are.
    public func sites(laneCount: Int) -> [Int] {
        guard owners.isEmpty else { return [] }
        return ExchangeLevels.sites(of: members.map { ($0.host, $0.lanes) }, laneCount: laneCount)
    }

    /// How long a member may say nothing while an operation waits for it: 0.9 s on one machine or local network, else
    /// 3 s.
    ///
    /// A matter of the whole generation, so that nobody is given up by one member and waited for by another. A sign of
    /// life comes each 0.1 s, so a pause of half a second is ridden out everywhere; a longer line may lose a few packets
    /// in a row, which TCP sends again only after a second or more.
    public var silenceLimit: Duration {
        let hosts = Set(members.map(\.host)).sorted()
        let isNear = hosts.indices.allSatisfy { index in
            hosts[(index + 1)...].allSatisfy { other in
                routes.contains { $0.first == hosts[index] && $0.second == other && $0.isLocal }
            }
        }
        return isNear ? .milliseconds(900) : .seconds(3)
    }

    /// Above this a wire is no limit: what carries the bytes is the processors, which have the gradient to compute.
    private static let fastRate = 500e6

    /// Whether it may pay to send parts of a gradient while the rest is computed: some pair of hosts has a wire
    /// that is not known to be a fast one.
    ///
    /// A matter of the whole generation, as all members cut a gradient alike.
    public var overlaps: Bool {
        let hosts = Set(members.map(\.host)).sorted()
        let fast = routes.filter { ($0.bytesPerSecond ?? 0) >= Self.fastRate }
        return hosts.indices.contains { index in
            hosts[(index + 1)...].contains { other in
                !fast.contains { $0.first == hosts[index] && $0.second == other }
            }
        }
    }

    /// The ranks that the member of a rank dials: the lower ones, except where only one side can.
    public func dialled(from rank: Int) -> Set<Int> {
        Set(
            members.indices.filter { other in
                guard other != rank else { return false }
                if case .dialled(let host) = way(between: members[rank].host, and: members[other].host) {
                    return host == members[rank].host
                }
                return other < rank
            }
        )
    }
}

/// A place that an agent is asked to try.
public struct ProbeTarget: Codable, Sendable, Hashable {
    /// The host there.
    public var host: String
    /// Where its agent listens for measurements; nil = through the relay.
    public var address: String?
    /// The relay's host; nil = the coordinator's machine.
    ///
    /// Without meaning for an address.
    public var hub: String?
    /// What the listener says first, so that no other machine with the same private address is taken for it.
    public var token: [UInt8]
    /// True for a server that answers nothing more than this, as sshd does.
    public var saysNoMore: Bool

    /// All fields.
    public init(host: String, address: String?, hub: String? = nil, token: [UInt8], saysNoMore: Bool = false)
    {
        self.host = host
        self.address = address
        self.hub = hub
        self.token = token
        self.saysNoMore = saysNoMore
    }
}

/// How an agent reaches a host where relayed links meet.
public struct HubAccess: Codable, Sendable, Hashable {
    /// The host there.
    public var hub: String
    /// Its numeric address.
    public var address: String
    /// Where its sshd listens.
    public var port: UInt16
    /// The login name.
    public var user: String
    /// Its public keys: kind and base64.
    public var hostKeys: [String]
    /// The private key, as ssh-keygen writes it; made for one run.
    public var key: WireSecret

    /// All fields.
    public init(
        hub: String,
        address: String,
        port: UInt16,
        user: String,
        hostKeys: [String],
        key: WireSecret
    ) {
        self.hub = hub
        self.address = address
        self.port = port
        self.user = user
        self.hostKeys = hostKeys
        self.key = key
    }
}

/// What came of trying a place.
public struct ProbeResult: Codable, Sendable, Hashable {
    /// The host there.
    public var host: String
    /// Why it can't be reached; nil when it can.
    public var problem: String?
    /// The shortest round trip of a byte; unit: seconds.
    public var roundTrip: Double
    /// How fast bytes came, once the connection was at speed.
    public var bytesPerSecond: Double

    /// All fields.
    public init(host: String, problem: String?, roundTrip: Double = 0, bytesPerSecond: Double = 0) {
        self.host = host
        self.problem = problem
        self.roundTrip = roundTrip
        self.bytesPerSecond = bytesPerSecond
    }
}
