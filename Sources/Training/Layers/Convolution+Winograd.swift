internal import Tensors

/// 3×3 convolutions by Winograd's algorithm.
extension Convolution {
    /// Whether Winograd's algorithm pays: decided by shapes alone, as it has other bits than the columns.
    ///
    /// Transforming the filters takes about as long as 16 tiles.
    func isWinograd(_ samples: Int) -> Bool {
        kernel == 3 && stride == 1 && padding == 1 && dilation == 1 && groups == 1
            && min(channels, filters) >= 16 && min(height, width) >= 3
            && samples * ((height + 3) / 4) * ((width + 3) / 4) >= 16
    }

    func winograd(_ samples: Int) -> Kernels.Winograd {
        Kernels.Winograd(
            channels: channels,
            filters: filters,
            samples: samples,
            height: height,
            width: width
        )
    }

    /// Numbers of scratch for so many samples and threads at most.
    func winogradScratch(_ samples: Int, _ threads: Int) -> Int {
        let shape = winograd(samples)
        let forward =
            max(shape.filterCount, shape.turned.filterCount)
            + threads * max(shape.forwardScratch, shape.turned.forwardScratch)
        let parts = min(threads, shape.filterBlocks)
        return max(forward, parts * shape.weightsScratch((shape.filterBlocks + parts - 1) / parts))
    }

    /// The outputs of Winograd's algorithm, or on the way back the gradient at the inputs.
    func winograd(
        _ x: UnsafePointer<Float>,
        _ y: UnsafeMutablePointer<Float>,
        _ forward: Kernels.Winograd,
        isTurned: Bool,
        bias: UnsafePointer<Float>?,
        _ pass: LayerPass
    ) {
        let shape = isTurned ? forward.turned : forward
        // Forward stays exact: what its rounding does to the loss is of no use to anyone, and errors add up along the layers.
        let rounds = isTurned && pass.rounds
        let turned = pass.scratch
        pass.team.divide(shape.rowBlocks, work: shape.filterCount / shape.rowBlocks) { range, _ in
            let weights = pass.weights + weight.offset
            pass.kernels.winogradFilters(turned, weights, shape, isTurned: isTurned, rounds: rounds, range)
        }
        let scratch = pass.scratch + shape.filterCount
        // Few blocks are shared by their filters, too; what that transforms twice is little beside many filters' products.
        let team = pass.team.size
        let isEven = shape.blocks % team == 0 || shape.blocks >= 4 * team
        let parts = isEven ? 1 : min(team, shape.rowBlocks)
        pass.team.run(shape.blocks * parts) { index, thread in
            let (block, part) = (index / parts, index % parts)
            pass.kernels.winogradForward(
                y,
                x,
                turned,
                bias: bias,
                shape,
                rounds: rounds,
                block..<(block + 1),
                rows: part * shape.rowBlocks / parts..<(part + 1) * shape.rowBlocks / parts,
                scratch: scratch + thread * shape.forwardScratch
            )
        }
    }

    /// The gradients of the filters and at the inputs.
    func winogradBackward(_ way: Backward, _ pass: LayerPass) {
        let shape = winograd(pass.count)
        let parts = min(pass.team.size, shape.filterBlocks)
        let each = (shape.filterBlocks + parts - 1) / parts
        let size = shape.weightsScratch(each)
        pass.team.run(parts) { part, _ in
            let blocks =
                min(part * each, shape.filterBlocks)..<min(part * each + each, shape.filterBlocks)
            guard !blocks.isEmpty else { return }
            let scratch = pass.scratch + part * size
            pass.kernels.winogradWeights(
                way.gradients + weight.offset,
                way.x,
                way.dy,
                shape,
                rounds: pass.rounds,
                blocks,
                scratch: scratch
            )
        }
        if let dx = way.dx { winograd(way.dy, dx, shape, isTurned: true, bias: nil, pass) }
    }
}
