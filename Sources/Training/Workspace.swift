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

    private var activations: [FloatArena]
    private let gradientPair: (FloatArena, FloatArena)?
    private let scratch: FloatArena
    private let places: UnsafeMutablePointer<UInt8>
    private let placesOffset: [Int]
    /// Softmax of the logits, and the gradient at the logits.
    private let logitGradients: FloatArena
    /// Where the gradient of a further part of a microbatch goes before it is added, `[N]`.
    private(set) lazy var partGradient = FloatArena(count: model.parameterCount)

    /// - Parameter trains: false leaves out what only backward needs.
    init(model: Model, kernels: Kernels, capacity: Int, trains: Bool) {
        self.model = model
        self.kernels = kernels
        self.capacity = capacity
        input = FloatArena(count: capacity * model.input.count)
        labels = .allocate(capacity: capacity)
        labels.initialize(repeating: 0, count: capacity)
        raw = .allocate(capacity: model.input.count)
        raw.initialize(repeating: 0)
        activations = []
        var largest = model.input.count
        var offsets: [Int] = []
        var placesCount = 0
        for layer in model.layers {
            if layer.isInPlace, let last = activations.last {
                activations.append(last)
            } else {
                activations.append(FloatArena(count: capacity * layer.output.count))
            }
            largest = max(largest, layer.output.count)
            offsets.append(placesCount)
            placesCount += capacity * layer.placesPerSample
        }
        placesOffset = offsets
        places = .allocate(capacity: max(1, placesCount))
        places.initialize(repeating: 0, count: max(1, placesCount))
        scratch = FloatArena(count: model.layers.map(\.scratchCount).max() ?? 0)
        logitGradients = FloatArena(count: capacity * model.classCount)
        gradientPair =
            trains
            ? (FloatArena(count: capacity * largest), FloatArena(count: capacity * largest)) : nil
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

    private func pass(_ layer: Int, _ count: Int, _ weights: UnsafePointer<Float>) -> LayerPass {
        LayerPass(
            kernels: kernels,
            count: count,
            weights: weights,
            scratch: scratch.pointer,
            places: places + placesOffset[layer]
        )
    }

    private func source(of layer: Int) -> FloatArena { layer == 0 ? input : activations[layer - 1] }

    /// The logits `[count, K]` of the samples taken; valid until the next pass.
    func forward(count: Int, weights: UnsafePointer<Float>) -> UnsafeMutablePointer<Float> {
        precondition(count > 0 && count <= capacity, "\(count) samples in a workspace of \(capacity)")
        for (index, layer) in model.layers.enumerated() {
            layer.forward(source(of: index).pointer, activations[index].pointer, pass(index, count, weights))
        }
        return activations[activations.count - 1].pointer
    }

    /// The loss, summed over the samples taken, and how many the model has right.
    func evaluate(count: Int, weights: UnsafePointer<Float>) -> (loss: Double, correct: Int) {
        let logits = forward(count: count, weights: weights)
        return kernels.crossEntropy(
            logitGradients.pointer,
            logits,
            labels,
            rows: count,
            classes: model.classCount
        )
    }

    /// Forward and backward.
    ///
    /// - Parameter gradients: `[N]`: overwritten with the sum over the samples; gaps between slices are left alone.
    func train(
        count: Int,
        weights: UnsafePointer<Float>,
        gradients: UnsafeMutablePointer<Float>
    ) -> (loss: Double, correct: Int) {
        guard let gradientPair else { preconditionFailure("a workspace without room for backward") }
        let result = evaluate(count: count, weights: weights)
        var dy = logitGradients.pointer
        var free = gradientPair.0.pointer
        var other = gradientPair.1.pointer
        for index in model.layers.indices.reversed() {
            let layer = model.layers[index]
            let dx: UnsafeMutablePointer<Float>? = index == 0 ? nil : layer.isInPlace ? dy : free
            layer.backward(
                source(of: index).pointer,
                activations[index].pointer,
                dy,
                dx,
                gradients: gradients,
                pass(index, count, weights)
            )
            if let dx, !layer.isInPlace {
                dy = dx
                swap(&free, &other)
            }
        }
        return result
    }
}
