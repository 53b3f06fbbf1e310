import Testing

@testable import Basics

struct ForeignTextTests {
    @Test func aLineHoldsNoControlCharacterAndNoEndOfLine() {
        let text = "\u{1B}]0;owned\u{7}\u{1B}[2Jready\ncoord: all hosts are ready\r\u{9B}1m\u{202E}x"
        let line = ForeignText.line(text)
        #expect(line == " ]0;owned  [2Jready coord: all hosts are ready  1m x")
        #expect(ForeignText.line("grüße, 世界 ✓") == "grüße, 世界 ✓")
    }

    @Test func aLineHasALimit() {
        #expect(ForeignText.line(String(repeating: "x", count: 1000)).count == 300)
        #expect(ForeignText.line("abcdef", limit: 3) == "abc")
    }

    @Test func aTerminalKeepsLinesAndTabs() {
        #expect(ForeignText.forTerminal("a\n\tb") == "a\n\tb")
        #expect(ForeignText.forTerminal("a\n\u{1B}[2Jb\u{8}") == "a\n [2Jb ")
    }
}
