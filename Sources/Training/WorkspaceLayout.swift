/// Where the activations of a workspace lie: decided before anything is allocated, so that a plan can tell its size.
struct WorkspaceLayout {
    /// What the activations are for.
    enum Purpose: Hashable {
        /// All are kept until backward has used them.
        case training
        /// Those between two cuts of the network are computed again by backward: the same bits, more work.
        case recomputing
        /// None is kept longer than the next layers need it.
        case evaluation
    }

    /// Of each node, in numbers; nodes that work in place share one.
    private(set) var places: [Int] = []
    /// Numbers for all activations.
    private(set) var count = 0
    /// Of each node's own numbers from forward to backward.
    private(set) var savedPlaces: [Int] = []
    private(set) var savedCount = 0
    /// Of each node's own bytes from forward to backward.
    private(set) var bytePlaces: [Int] = []
    private(set) var byteCount = 0
    /// Nodes that backward computes together, in order; what is between two of them is kept.
    private(set) var segments: [Range<Int>] = []
    /// Arenas of the largest activation that backward has in use at a time.
    let gradientArenas: Int
    /// Numbers in the largest activation.
    let largest: Int
    /// Numbers of scratch.
    let scratchCount: Int
    /// Numbers in the other arenas: input and logits' gradient.
    let others: Int

    /// - Parameters:
    ///   - capacity: the most samples of one pass.
    ///   - threads: the largest team that works together.
    init(model: Model, capacity: Int, purpose: Purpose, threads: Int = 1) {
        scratchCount =
            model.layers.map { $0.scratchCount(samples: capacity, threads: threads) }.max() ?? 0
        largest = capacity * model.nodes.reduce(model.input.count) { max($0, $1.output.count) }
        others = capacity * (model.input.count + model.rowsPerSample * model.classCount)
        gradientArenas = purpose == .evaluation ? 0 : Self.countGradients(model)
        switch purpose {
        case .training: place(model, capacity, cuts: [])
        case .evaluation:
            place(model, capacity, cuts: [])
            placeByUse(model, capacity)
        case .recomputing: placeBest(model, capacity)
        }
    }

    /// Bytes of a workspace of this layout.
    var bytes: Int {
        4 * (count + savedCount + scratchCount + others + gradientArenas * largest) + byteCount
    }

    private static func rounded(_ count: Int) -> Int { (count + 15) / 16 * 16 }

    /// The place of each node whose activation lies in its source's memory is the source's.
    private static func size(_ node: Node, _ capacity: Int) -> Int {
        node.sharesSource ? 0 : rounded(capacity * node.output.count)
    }

    // MARK: Training

    /// Lays activations out: those before a cut one after the other, all others in a part that the segments share.
    private mutating func place(_ model: Model, _ capacity: Int, cuts: [Int]) {
        segments = []
        places = []
        savedPlaces = []
        bytePlaces = []
        (count, savedCount, byteCount) = (0, 0, 0)
        var start = 0
        for end in cuts + [model.nodes.count - 1] {
            segments.append(start..<(end + 1))
            start = end + 1
        }
        let kept = keptOwners(model, cuts: cuts)
        var keptPlaces: [Int: Int] = [:]
        var keptCount = 0
        for owner in kept.sorted() {
            keptPlaces[owner] = keptCount
            keptCount += Self.size(model.nodes[owner], capacity)
        }
        var sharedCount = 0
        for segment in segments {
            var (next, saved, bytes) = (keptCount, 0, 0)
            for index in segment {
                let node = model.nodes[index]
                if let place = keptPlaces[index] {
                    places.append(place)
                } else if node.sharesSource {
                    places.append(places[node.source])
                } else {
                    places.append(next)
                    next += Self.size(node, capacity)
                }
                savedPlaces.append(saved)
                saved += Self.rounded(node.layer?.savedCount(samples: capacity) ?? 0)
                bytePlaces.append(bytes)
                bytes += capacity * (node.layer?.placesPerSample ?? 0)
            }
            sharedCount = max(sharedCount, next)
            savedCount = max(savedCount, saved)
            byteCount = max(byteCount, bytes)
        }
        count = max(sharedCount, keptCount)
    }

    /// The nodes in whose memory the activations at the cuts lie.
    private func keptOwners(_ model: Model, cuts: [Int]) -> Set<Int> {
        Set(
            cuts.map { cut in
                var owner = cut
                while model.nodes[owner].sharesSource { owner = model.nodes[owner].source }
                return owner
            }
        )
    }

    /// Chooses cuts that need the least memory, about evenly over the activations.
    private mutating func placeBest(_ model: Model, _ capacity: Int) {
        place(model, capacity, cuts: [])
        var best = self
        let possible = Self.cuts(of: model)
        let sizes = model.nodes.map { Self.size($0, 1) }
        let total = sizes.reduce(0, +)
        for number in 1..<max(2, min(possible.count + 1, 64)) {
            var chosen: [Int] = []
            var sum = 0
            for (index, size) in sizes.enumerated() {
                sum += size
                if chosen.count < number, possible.contains(index),
                    sum * (number + 1) >= total * (chosen.count + 1)
                {
                    chosen.append(index)
                }
            }
            place(model, capacity, cuts: chosen)
            if bytes < best.bytes { best = self }
        }
        self = best
    }

    /// Nodes behind which only their own activation is needed, and is not overwritten.
    private static func cuts(of model: Model) -> Set<Int> {
        var cuts: Set<Int> = []
        // The first node that anything behind a place asks for.
        var earliest = model.nodes.count
        for index in model.nodes.indices.reversed() {
            let isLast = index == model.nodes.count - 1
            if !isLast, earliest >= index, !model.nodes[index + 1].sharesSource { cuts.insert(index) }
            let node = model.nodes[index]
            // The input is always there.
            if node.source >= 0 { earliest = min(earliest, node.source) }
            if case .add(let other) = node.operation, other >= 0 { earliest = min(earliest, other) }
        }
        return cuts
    }

    // MARK: Evaluation

    /// Gives each activation memory that nobody needs any longer.
    private mutating func placeByUse(_ model: Model, _ capacity: Int) {
        var owner = Array(model.nodes.indices)
        for (index, node) in model.nodes.enumerated() where node.sharesSource {
            owner[index] = owner[node.source]
        }
        var lastUse = Array(model.nodes.indices)
        for (index, node) in model.nodes.enumerated() {
            var sources = [node.source]
            if case .add(let other) = node.operation { sources.append(other) }
            lastUse[owner[index]] = max(lastUse[owner[index]], index)
            for source in sources where source >= 0 { lastUse[owner[source]] = index }
        }
        lastUse[owner[model.nodes.count - 1]] = .max
        // What a layer keeps for backward is for nobody here: all use one place.
        savedCount = model.layers.map { Self.rounded($0.savedCount(samples: capacity)) }.max() ?? 0
        byteCount = model.layers.map { capacity * $0.placesPerSample }.max() ?? 0
        savedPlaces = model.nodes.map { _ in 0 }
        bytePlaces = savedPlaces
        var live: [(range: Range<Int>, until: Int)] = []
        count = 0
        for (index, node) in model.nodes.enumerated() {
            guard owner[index] == index else {
                places[index] = places[owner[index]]
                continue
            }
            live.removeAll { $0.until < index }
            let size = Self.size(node, capacity)
            var start = 0
            for other in live.sorted(by: { $0.range.lowerBound < $1.range.lowerBound }) {
                if start + size <= other.range.lowerBound { break }
                start = max(start, other.range.upperBound)
            }
            places[index] = start
            live.append((start..<(start + size), lastUse[index]))
            count = max(count, start + size)
        }
    }

    // MARK: Gradients

    /// How many arenas backward takes at most, by going through it.
    private static func countGradients(_ model: Model) -> Int {
        // -1 is the gradient at the logits, which is no arena.
        var held = [Int?](repeating: nil, count: model.nodes.count)
        var (free, made) = ([Int](), 0)
        func take() -> Int {
            if let last = free.popLast() { return last }
            made += 1
            return made
        }
        func release(_ arena: Int) { if arena >= 0 { free.append(arena) } }
        func give(_ arena: Int, to node: Int) {
            if node < 0 || held[node] != nil { release(arena) } else { held[node] = arena }
        }
        held[model.nodes.count - 1] = -1
        for (index, node) in model.nodes.enumerated().reversed() {
            guard let arriving = held[index] else { continue }
            held[index] = nil
            switch node.operation {
            case .add(let other):
                if other >= 0 { give(take(), to: other) }
                give(arriving, to: node.source)
            case .layer(let layer):
                let target: Int? = node.source < 0 ? nil : layer.isInPlace ? arriving : take()
                if let target { give(target, to: node.source) }
                if target != arriving { release(arriving) }
            }
        }
        return made
    }
}
