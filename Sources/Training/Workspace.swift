internal import Tensors

/// The activations of one thread: what one microbatch needs between forward and backward.
///
/// Every pass overwrites all that it reads, so nothing of an earlier microbatch can show.
final class Workspace {
    private let model: Model
    private let kernels: Kernels
    /// The most samples of one pass.
    let capacity: Int
    /// The model's input of `capacity` samples, in the layout that the first layer wants.
    let input: FloatArena
    /// Labels of the samples.
    let labels: UnsafeMutablePointer<Int32>
    /// One sample as the source gives it, `[shape]`.
    let raw: UnsafeMutableBufferPointer<Float>

    /// Of each node; a node that works in place shares its source's.
    private let activations: [FloatArena]
    private let saved: [FloatArena]
    /// Gradients on their way back that are not in use; each holds the largest activation.
    private var free: [FloatArena] = []
    private let gradientCount: Int?
    private let scratch: FloatArena
    private let places: UnsafeMutablePointer<UInt8>
    private let placesOffset: [Int]
    private let loss: Loss
    /// The gradient at the logits.
    private let logitGradients: FloatArena
    /// Where the gradient of a further part of a microbatch goes before it is added, `[N]`.
    private(set) lazy var partGradient = FloatArena(count: model.parameterCount)

    /// - Parameters:
    ///   - trains: false leaves out what only backward needs.
    ///   - threads: the largest team that will work here.
    init(
        model: Model,
        kernels: Kernels,
        capacity: Int,
        trains: Bool,
        loss: Loss = .plain,
        threads: Int = 1
    ) {
        self.model = model
        self.kernels = kernels
        self.capacity = capacity
        self.loss = loss
        input = FloatArena(count: capacity * model.input.count)
        labels = .allocate(capacity: capacity * model.rowsPerSample)
        labels.initialize(repeating: 0, count: capacity * model.rowsPerSample)
        raw = .allocate(capacity: model.input.count)
        raw.initialize(repeating: 0)
        let slots = trains ? Self.oneEach(model) : Self.shared(model)
        let arenas = (0...(slots.max() ?? 0)).map { slot in
            FloatArena(
                count: capacity
                    * (zip(slots, model.nodes).filter { $0.0 == slot }.map { $0.1.output.count }.max() ?? 0)
            )
        }
        activations = slots.map { arenas[$0] }
        let savedCounts = model.nodes.map { $0.layer?.savedCount(samples: capacity) ?? 0 }
        if trains {
            saved = savedCounts.map { FloatArena(count: $0) }
        } else {
            // No backward comes for it: one layer may overwrite what the one before it kept.
            saved = [FloatArena](
                repeating: FloatArena(count: savedCounts.max() ?? 0),
                count: savedCounts.count
            )
        }
        let largest = model.nodes.reduce(model.input.count) { max($0, $1.output.count) }
        var offsets: [Int] = []
        var placesCount = 0
        for node in model.nodes {
            offsets.append(trains ? placesCount : 0)
            let own = capacity * (node.layer?.placesPerSample ?? 0)
            placesCount = trains ? placesCount + own : max(placesCount, own)
        }
        placesOffset = offsets
        places = .allocate(capacity: max(1, placesCount))
        places.initialize(repeating: 0, count: max(1, placesCount))
        scratch = FloatArena(
            count: model.layers.map { $0.scratchCount(samples: capacity, threads: threads) }.max() ?? 0
        )
        logitGradients = FloatArena(count: capacity * model.rowsPerSample * model.classCount)
        gradientCount = trains ? capacity * largest : nil
    }

    /// An arena for each activation that does not share its source's.
    private static func oneEach(_ model: Model) -> [Int] {
        var slots: [Int] = []
        for (index, node) in model.nodes.enumerated() {
            slots.append(node.sharesSource ? slots[node.source] : index)
        }
        return slots
    }

    /// As few arenas as hold what is still to be read: without backward an activation is free after its last reader.
    private static func shared(_ model: Model) -> [Int] {
        var lastReader = [Int](repeating: model.nodes.count, count: model.nodes.count)
        for (index, node) in model.nodes.enumerated() {
            if node.source >= 0 { lastReader[node.source] = index }
            if case .add(let other) = node.operation, other >= 0 { lastReader[other] = index }
        }
        var slots: [Int] = []
        var free: [Int] = []
        var count = 0
        for (index, node) in model.nodes.enumerated() {
            if node.sharesSource {
                slots.append(slots[node.source])
            } else if let slot = free.popLast() {
                slots.append(slot)
            } else {
                slots.append(count)
                count += 1
            }
            for read in 0..<index where lastReader[read] == index && slots[read] != slots[index] {
                free.append(slots[read])
            }
        }
        return slots
    }

    deinit {
        labels.deallocate()
        raw.deallocate()
        places.deallocate()
    }

    /// Takes the sample in ``raw`` as sample `position` of `count`, normalised.
    func accept(position: Int, count: Int, mean: [Float], deviation: [Float]) {
        guard let source = raw.baseAddress else { return }
        switch model.input {
        case .flat(let features):
            // Images keep their channels' own means though the layer sees one row.
            let each = features / mean.count
            for c in mean.indices {
                kernels.normalize(
                    input.pointer + position * features + c * each,
                    source + c * each,
                    mean: mean[c],
                    deviation: deviation[c],
                    each
                )
            }
        case .tokens: preconditionFailure("a model takes tokens as flat samples")
        case .planes(let channels, let height, let width):
            let pixels = height * width
            for c in 0..<channels {
                kernels.normalize(
                    input.pointer + (c * count + position) * pixels,
                    source + c * pixels,
                    mean: mean[c],
                    deviation: deviation[c],
                    pixels
                )
            }
        }
    }

    /// Whether the sample in ``raw`` is one that the model can take.
    var rawIsUsable: Bool { raw.allSatisfy(model.accepts) }

    /// Sets the targets of a sample: its label, or for tokens the next one of each, and the label after the last.
    func setTargets(position: Int, label: Int) {
        let rows = model.rowsPerSample
        let own = labels + position * rows
        if rows > 1 { for t in 0..<(rows - 1) { own[t] = Int32(raw[t + 1]) } }
        own[rows - 1] = Int32(label)
    }

    private func pass(
        _ node: Int,
        _ count: Int,
        _ weights: UnsafePointer<Float>,
        _ training: TrainingPass?,
        _ team: Team
    ) -> LayerPass {
        LayerPass(
            kernels: kernels,
            count: count,
            weights: weights,
            scratch: scratch.pointer,
            places: places + placesOffset[node],
            saved: saved[node].pointer,
            training: training,
            team: team
        )
    }

    private func activation(_ node: Int) -> FloatArena { node < 0 ? input : activations[node] }

    /// The logits `[count · rows, K]` of the samples taken; valid until the next pass.
    func forward(
        count: Int,
        weights: UnsafePointer<Float>,
        training: TrainingPass? = nil,
        team: Team = .alone
    ) -> UnsafeMutablePointer<Float> {
        precondition(count > 0 && count <= capacity, "\(count) samples in a workspace of \(capacity)")
        for (index, node) in model.nodes.enumerated() {
            let x = activation(node.source).pointer
            let y = activations[index].pointer
            let size = count * node.output.count
            switch node.operation {
            case .layer(let layer):
                if layer.isInPlace, !node.sharesSource { y.update(from: x, count: size) }
                layer.forward(x, y, pass(index, count, weights, training, team))
            case .add(let other):
                let second = activation(other).pointer
                team.divide(size, multiple: 64) { range, _ in
                    let at = range.lowerBound
                    kernels.sum(y + at, x + at, second + at, rectifies: node.rectifies, range.count)
                }
            }
        }
        return activations[activations.count - 1].pointer
    }

    /// The logits of what follows each sample, `[count, K]`: its class, or the token after its last.
    func predict(count: Int, weights: UnsafePointer<Float>) -> [Float] {
        let logits = forward(count: count, weights: weights)
        let (rows, classes) = (model.rowsPerSample, model.classCount)
        return (0..<count).flatMap { sample in
            UnsafeBufferPointer(start: logits + (sample * rows + rows - 1) * classes, count: classes)
        }
    }

    /// The loss, summed over the samples taken, and how many of them the model has right.
    ///
    /// A sample of several rows counts as their mean.
    func evaluate(
        count: Int,
        weights: UnsafePointer<Float>,
        training: TrainingPass? = nil,
        team: Team = .alone
    ) -> (loss: Double, correct: Double) {
        let logits = forward(count: count, weights: weights, training: training, team: team)
        let rows = model.rowsPerSample
        let result = loss.compute(
            logitGradients.pointer,
            logits,
            labels,
            rows: count * rows,
            classes: model.classCount,
            kernels: kernels
        )
        guard rows > 1 else { return (result.loss, Double(result.correct)) }
        if training != nil {
            kernels.divide(logitGradients.pointer, by: Float(rows), count * rows * model.classCount)
        }
        return (result.loss / Double(rows), Double(result.correct) / Double(rows))
    }

    /// True when the last ``train(count:weights:_:team:)`` was not wanted to its end: its gradients are worth nothing.
    private(set) var wasDropped = false

    /// Forward and backward.
    ///
    /// - Parameter training: its gradients, `[N]`, are overwritten with the sum over the samples; gaps between slices
    ///   are left alone. A pass that is not wanted any more ends early, see ``wasDropped``.
    func train(
        count: Int,
        weights: UnsafePointer<Float>,
        _ training: TrainingPass,
        team: Team = .alone
    ) -> (loss: Double, correct: Double) {
        wasDropped = !training.isWanted()
        guard !wasDropped else { return (0, 0) }
        let result = evaluate(count: count, weights: weights, training: training, team: team)
        // The gradient at each activation that is on its way.
        var held = [FloatArena?](repeating: nil, count: model.nodes.count)
        held[model.nodes.count - 1] = logitGradients
        for (index, node) in model.nodes.enumerated().reversed() {
            guard let arriving = held[index] else { continue }
            guard training.isWanted() else {
                wasDropped = true
                for gradient in held { if let gradient { release(gradient) } }
                return (0, 0)
            }
            held[index] = nil
            let size = count * node.output.count
            switch node.operation {
            case .add(let other):
                let y = activations[index].pointer
                if other >= 0 {
                    let second = take()
                    team.divide(size, multiple: 64) { range, _ in
                        let (at, n) = (range.lowerBound, range.count)
                        if node.rectifies {
                            kernels.reluBackward(arriving.pointer + at, copy: second.pointer + at, y + at, n)
                        } else {
                            (second.pointer + at).update(from: arriving.pointer + at, count: n)
                        }
                    }
                    give(second, to: other, size, &held, team)
                }
                if other < 0, node.rectifies { kernels.reluBackward(arriving.pointer, y, size) }
                give(arriving, to: node.source, size, &held, team)
            case .layer(let layer):
                let target: FloatArena? = node.source < 0 ? nil : layer.isInPlace ? arriving : take()
                layer.backward(
                    Backward(
                        x: activation(node.source).pointer,
                        y: activations[index].pointer,
                        dy: arriving.pointer,
                        dx: target?.pointer,
                        gradients: training.gradients
                    ),
                    pass(index, count, weights, training, team)
                )
                if let target {
                    give(target, to: node.source, count * model.shape(of: node.source).count, &held, team)
                }
                if target !== arriving { release(arriving) }
            }
        }
        return result
    }

    /// Brings a gradient to an activation; the second one to come is added to the first.
    private func give(
        _ gradient: FloatArena,
        to node: Int,
        _ size: Int,
        _ held: inout [FloatArena?],
        _ team: Team
    ) {
        guard node >= 0 else { return release(gradient) }
        guard let first = held[node] else {
            held[node] = gradient
            return
        }
        team.divide(size, multiple: 64) { range, _ in
            kernels.add(first.pointer + range.lowerBound, gradient.pointer + range.lowerBound, range.count)
        }
        release(gradient)
    }

    private func take() -> FloatArena {
        guard let gradientCount else { preconditionFailure("a workspace without room for backward") }
        return free.popLast() ?? FloatArena(count: gradientCount)
    }

    private func release(_ gradient: FloatArena) { if gradient !== logitGradients { free.append(gradient) } }
}
