/// A generation of members as the rules of membership see it: who, with which lanes, and which proposal it is.
public struct GenerationView: Codable, Hashable, Sendable {
    /// One member and its lanes.
    public struct Member: Codable, Hashable, Sendable {
        /// Its number, fixed for the attempt and never given to another process.
        public var member: Int
        /// The lanes it computes.
        public var lanes: LaneSet
        /// All fields.
        public init(member: Int, lanes: LaneSet) {
            self.member = member
            self.lanes = lanes
        }
    }

    /// From 1, rising.
    public var number: Int
    /// Drawn by whoever proposed it: tells two proposals with one number apart.
    public var mark: UInt64
    /// In rising order of their numbers.
    public var members: [Member]
    /// Those of them that began without the run's state: they have no word while anybody else is left.
    public var joiners: [Int]

    /// All fields.
    public init(number: Int, mark: UInt64, members: [Member], joiners: [Int] = []) {
        self.number = number
        self.mark = mark
        self.members = members
        self.joiners = joiners
    }

    /// The members' numbers.
    public var ids: Set<Int> { Set(members.map(\.member)) }

    /// Those who have a word: the members that have not left, without those that join unless nobody else is there.
    public func counted(left: Set<Int>) -> [Member] {
        let there = members.filter { !left.contains($0.member) }
        let full = there.filter { !joiners.contains($0.member) }
        return full.isEmpty ? there : full
    }

    /// Tells whether `some` may speak for this generation: the complement of a quorum is never one.
    ///
    /// More than half of those who have a word, or exactly half with the member that holds lane 0.
    /// - Parameters:
    ///   - some: members that take part; others are not counted.
    ///   - left: members whose end is proven, and whose last words are known; they count on neither side.
    public func isQuorum(_ some: Set<Int>, left: Set<Int> = []) -> Bool {
        let counted = counted(left: left)
        // All have ended: nobody can go on there.
        if counted.isEmpty { return true }
        let present = counted.filter { some.contains($0.member) }
        if 2 * present.count > counted.count { return true }
        // Who holds lane 0 breaks the tie; when it has left, nobody does.
        return !present.isEmpty && 2 * present.count == counted.count
            && present.contains { $0.lanes.contains(0) }
    }
}

/// What a proposed generation is built on, so that whoever knows better can refuse it.
public struct GenerationBasis: Codable, Hashable, Sendable {
    /// A generation that the new one takes the place of.
    public struct Followed: Codable, Hashable, Sendable {
        /// Who they were.
        public var view: GenerationView
        /// True when a member has vowed never to accept it: it can't take effect, and asks for no quorum.
        public var isVoid: Bool
        /// All fields.
        public init(_ view: GenerationView, isVoid: Bool = false) {
            self.view = view
            self.isVoid = isVoid
        }
    }

    /// Tells the proposal from others with the same number.
    public var mark: UInt64
    /// The newest generation that is known to have taken effect, and all that were proposed after it.
    public var follows: [Followed]
    /// Members whose end is proven, or was declared by a person.
    public var left: [Int]

    /// All fields.
    public init(mark: UInt64, follows: [Followed], left: [Int]) {
        self.mark = mark
        self.follows = follows
        self.left = left
    }

    /// The generations that may be in force.
    public var bodies: [GenerationView] { follows.filter { !$0.isVoid }.map(\.view) }

    /// Tells whether these members may take the place of all that went before.
    public func admits(_ members: Set<Int>) -> Bool {
        bodies.allSatisfy { $0.isQuorum(members, left: Set(left)) }
    }

    /// The generation that may have gone on without a member which has the state of generation `since`.
    public func without(_ member: Int, since: Int) -> GenerationView? {
        bodies.first { $0.number >= since && !$0.ids.contains(member) }
    }
}
