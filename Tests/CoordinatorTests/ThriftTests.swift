import Testing

@testable import Coordinator

@Suite struct ThriftTests {
    @Test func whatTakesLongIsDoneRarely() {
        let start = ContinuousClock.now
        var thrift = Thrift()
        #expect(thrift.wait(at: start) == nil)
        thrift.spent(from: start, to: start + .milliseconds(20))
        #expect(thrift.wait(at: start + .milliseconds(50)) == .milliseconds(150))
        #expect(thrift.wait(at: start + .milliseconds(200)) == nil)
    }
}
