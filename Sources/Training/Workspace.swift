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

    private let layout: WorkspaceLayout
    /// Of all nodes, where the layout says.
    private let activations: FloatArena
    private let saved: FloatArena
    /// Gradients on their way back that are not in use; each holds the largest activation.
    private var free: [FloatArena] = []
    private let trains: Bool
    private let scratch: FloatArena
    private let places: UnsafeMutablePointer<UInt8>
    private let loss: Loss
    /// The gradient at the logits.
    private let logitGradients: FloatArena
    /// Where the gradient of a further part of a microbatch goes before it is added, `[N]`.
    private(set) lazy var partGradient = FloatArena(count: model.parameterCount)

    /// When the last forward pass ended.
    private(set) var forwardEnded = ContinuousClock.now
    /// The second labels of mixed samples and how much the first ones count; nil while nothing is mixed.
    private var mixed: (labels: [Int32], share: Float)?
    /// The gradient at the logits for the second labels.
    private lazy var mixedGradients = FloatArena(count: logitGradients.count)

    /// - Parameters:
    ///   - trains: false leaves out what only backward needs.
    ///   - threads: the largest team that will work here.
    ///   - recomputes: backward computes activations again instead of finding them all: less memory, the same bits.
    init(
        model: Model,
        kernels: Kernels,
        capacity: Int,
        trains: Bool,
        loss: Loss = .plain,
        threads: Int = 1,
        recomputes: Bool = false
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
        let purpose: WorkspaceLayout.Purpose =
            !trains ? .evaluation : recomputes ? .recomputing : .training
        layout = WorkspaceLayout(model: model, capacity: capacity, purpose: purpose, threads: threads)
        self.trains = trains
        activations = FloatArena(count: layout.count)
        saved = FloatArena(count: layout.savedCount)
        places = .allocate(capacity: max(1, layout.byteCount))
        places.initialize(repeating: 0, count: max(1, layout.byteCount))
        scratch = FloatArena(count: layout.scratchCount)
        logitGradients = FloatArena(count: capacity * model.rowsPerSample * model.classCount)
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

    /// Mixes each sample taken with the one that is `shift` places on, inputs and labels; or leaves all as they are.
    ///
    /// Holds until the next call.
    /// - Parameter mix: how far on, 0 ..< count, and the share of the sample itself, 0 to 1; nil for none.
    /// - Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization".
    func mix(_ mix: (shift: Int, share: Float)?, count: Int) {
        guard let mix, mix.shift != 0 else {
            mixed = nil
            return
        }
        precondition(model.rowsPerSample == 1, "sequences cannot be mixed")
        mixed = ((0..<count).map { labels[($0 + mix.shift) % count] }, mix.share)
        let (blocks, size) =
            switch model.input {
            case .planes(let channels, let height, let width): (channels, height * width)
            case .flat(let features): (1, features)
            case .tokens: preconditionFailure("tokens cannot be mixed")
            }
        for block in 0..<blocks {
            let own = input.pointer + block * count * size
            let copy = Array(UnsafeBufferPointer(start: own, count: count * size))
            for sample in 0..<count {
                let other = (sample + mix.shift) % count * size
                for place in 0..<size {
                    own[sample * size + place] =
                        mix.share * copy[sample * size + place] + (1 - mix.share) * copy[other + place]
                }
            }
        }
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
            places: places + layout.bytePlaces[node],
            saved: saved.pointer + layout.savedPlaces[node],
            training: training,
            team: team
        )
    }

    private func activation(_ node: Int) -> UnsafeMutablePointer<Float> {
        node < 0 ? input.pointer : activations.pointer + layout.places[node]
    }

    /// The logits `[count · rows, K]` of the samples taken; valid until the next pass.
    func forward(
        count: Int,
        weights: UnsafePointer<Float>,
        training: TrainingPass? = nil,
        team: Team = .alone
    ) -> UnsafeMutablePointer<Float> {
        precondition(count > 0 && count <= capacity, "\(count) samples in a workspace of \(capacity)")
        compute(model.nodes.indices, count: count, weights: weights, training: training, team)
        return activation(model.nodes.count - 1)
    }

    /// The activations of some nodes from those before them.
    private func compute(
        _ nodes: Range<Int>,
        count: Int,
        weights: UnsafePointer<Float>,
        training: TrainingPass?,
        _ team: Team
    ) {
        for index in nodes {
            let node = model.nodes[index]
            let x = activation(node.source)
            let y = activation(index)
            let size = count * node.output.count
            switch node.operation {
            case .layer(let layer):
                if layer.isInPlace, !node.sharesSource { y.update(from: x, count: size) }
                layer.forward(x, y, pass(index, count, weights, training, team))
            case .add(let other):
                let second = activation(other)
                team.divide(size, multiple: 64) { range, _ in
                    let at = range.lowerBound
                    kernels.sum(y + at, x + at, second + at, rectifies: node.rectifies, range.count)
                }
            }
        }
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
        let first = loss.compute(
            logitGradients.pointer,
            logits,
            labels,
            rows: count * rows,
            classes: model.classCount,
            kernels: kernels
        )
        var result = (loss: first.loss, correct: Double(first.correct))
        if training != nil, let mixed { blend(mixed, &result, logits, count: count) }
        guard rows > 1 else { return result }
        if training != nil {
            kernels.divide(logitGradients.pointer, by: Float(rows), count * rows * model.classCount)
        }
        return (result.loss / Double(rows), result.correct / Double(rows))
    }

    /// The loss of mixed samples: that of their first labels and that of their second ones, by their shares.
    private func blend(
        _ mixed: (labels: [Int32], share: Float),
        _ result: inout (loss: Double, correct: Double),
        _ logits: UnsafePointer<Float>,
        count: Int
    ) {
        let second = loss.compute(
            mixedGradients.pointer,
            logits,
            mixed.labels,
            rows: count,
            classes: model.classCount,
            kernels: kernels
        )
        let share = Double(mixed.share)
        result.loss = share * result.loss + (1 - share) * second.loss
        result.correct = share * result.correct + (1 - share) * Double(second.correct)
        for place in 0..<(count * model.classCount) {
            logitGradients.pointer[place] =
                mixed.share * logitGradients.pointer[place]
                + (1 - mixed.share) * mixedGradients.pointer[place]
        }
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
        forwardEnded = .now
        // The gradient at each activation that is on its way.
        var held = [FloatArena?](repeating: nil, count: model.nodes.count)
        held[model.nodes.count - 1] = logitGradients
        for (number, segment) in layout.segments.enumerated().reversed() {
            // The last one is still there from forward.
            if number + 1 < layout.segments.count {
                compute(segment, count: count, weights: weights, training: training, team)
            }
            goBack(through: segment, count: count, weights: weights, training, &held, team)
            if wasDropped { return (0, 0) }
        }
        return result
    }

    /// The gradients of some nodes from those behind them, as long as they are wanted.
    private func goBack(
        through nodes: Range<Int>,
        count: Int,
        weights: UnsafePointer<Float>,
        _ training: TrainingPass,
        _ held: inout [FloatArena?],
        _ team: Team
    ) {
        for index in nodes.reversed() {
            let node = model.nodes[index]
            guard let arriving = held[index] else { continue }
            guard training.isWanted() else {
                wasDropped = true
                for gradient in held { if let gradient { release(gradient) } }
                return
            }
            held[index] = nil
            let size = count * node.output.count
            switch node.operation {
            case .add(let other):
                let y = activation(index)
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
                        x: activation(node.source),
                        y: activation(index),
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
            training.didPass(index)
        }
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
        precondition(trains, "a workspace without room for backward")
        return free.popLast() ?? FloatArena(count: layout.largest)
    }

    private func release(_ gradient: FloatArena) { if gradient !== logitGradients { free.append(gradient) } }
}
