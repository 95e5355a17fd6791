//! Finds texts whose pairs of neighbouring characters are those of noise: pieces of words glued at random,
//! letters at random, keys hit at random.
//!
//! A table says of each pair of sorts of characters how much more often it stands in noise than in texts, in
//! tenths of a bit. The mean over a text is a likelihood ratio: which of the two sources made it. Distance from
//! prose alone does not do, because good code is further from prose than glued pieces of words are; code does
//! have pairs of its own, though, and noise has those of neither. No language and no word is in the table: the
//! 26 letters are told apart, all other letters are four sorts, so scripts other than Latin are told by how they
//! mix and never by how they spell.

use super::loops::is_its_own_word;

/// Sorts of characters, see [`sort`].
const SORTS: usize = 66;
/// Fewer pairs than this tell nothing.
const FEWEST: usize = 40;
/// Where fewer of the characters are letters, it is a table, a drawing or a dump.
const LETTERS_SHARE: f64 = 0.4;
/// A run this long without white space, with digits in it, is a hash, a key or an encoded file: data, which
/// looks like noise because it was made to.
const DATA: usize = 20;
/// From this mean on (bits for each pair) a text is noise, if it is long.
const NOISE: f64 = 0.2;
/// What is added to [`NOISE`], divided by the root of the pairs: the mean of few pairs wanders.
const WANDER: f64 = 1.6;

/// Why `text` is made of unlikely pairs, where it is.
pub(super) fn why_unlikely(text: &str) -> Option<String> {
    let (bits, pairs, is_of_letters) = measured(text);
    (is_of_letters && pairs >= FEWEST && bits >= bound(pairs)).then(|| {
        format!("{pairs} pairs of characters are {bits:.2} bits each more likely in noise than in text")
    })
}

/// The least mean that is noise.
fn bound(pairs: usize) -> f64 {
    NOISE + WANDER / (pairs as f64).sqrt()
}

/// The mean of the table over the text, over how many pairs, and whether letters make up enough of it.
fn measured(text: &str) -> (f64, usize, bool) {
    let (mut sum, mut pairs, mut letters, mut all) = (0_i64, 0_usize, 0_usize, 0_usize);
    let mut last: Option<usize> = None;
    for run in text.split_inclusive(|c: char| !is_of_data(c)) {
        // The character that ends the run is none of the data.
        let data = run.trim_end_matches(|c| !is_of_data(c));
        if data.len() >= DATA && data.bytes().any(|b| b.is_ascii_digit()) {
            last = run[data.len()..].chars().next().map(sort);
            continue;
        }
        for c in run.chars() {
            let this = sort(c);
            all += usize::from(!c.is_whitespace());
            letters += usize::from(c.is_alphabetic());
            if let Some(last) = last.filter(|last| !(is_sign(*last) && is_sign(this))) {
                sum += i64::from(TABLE[last].as_bytes()[this]) - i64::from(ZERO);
                pairs += 1;
            }
            last = Some(this);
        }
    }
    (sum as f64 / 10.0 / pairs.max(1) as f64, pairs, letters as f64 >= all as f64 * LETTERS_SHARE)
}

/// Hashes, UUIDs, base64 and its variant for addresses.
fn is_of_data(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-')
}

/// Two signs side by side are code, a drawing or an emoticon as well as noise: such pairs count nothing.
fn is_sign(sort: usize) -> bool {
    (30..62).contains(&sort) || sort == OTHER
}

const OTHER: usize = 65;

/// 0 newline, 1 other white space, 2 digit, 3 to 28 the letters a to z, 29 a Latin capital, 30 to 61 the signs of
/// ASCII and what other scripts write for them, 62 other small Latin letters, 63 letters of scripts without
/// spaces, 64 other letters, 65 the rest: vowel signs, symbols, emoji.
fn sort(c: char) -> usize {
    let c = match c {
        '‘' | '’' | 'ʻ' | 'ʼ' => '\'',
        '“' | '”' | '„' | '«' | '»' | '「' | '」' | '『' | '』' => '"',
        '–' | '—' => '-',
        '…' | '。' => '.',
        '、' | '，' => ',',
        '（' => '(',
        '）' => ')',
        '：' => ':',
        '；' => ';',
        '！' => '!',
        '？' => '?',
        c => c,
    };
    match c {
        '\n' => 0,
        c if c.is_whitespace() => 1,
        'a'..='z' => 3 + (u32::from(c) - u32::from('a')) as usize,
        'A'..='Z' => 29,
        c if c.is_numeric() => 2,
        '!'..='/' => 30 + (u32::from(c) - u32::from('!')) as usize,
        ':'..='@' => 45 + (u32::from(c) - u32::from(':')) as usize,
        '['..='`' => 52 + (u32::from(c) - u32::from('[')) as usize,
        '{'..='~' => 58 + (u32::from(c) - u32::from('{')) as usize,
        c if !c.is_alphabetic() => OTHER,
        '\u{80}'..='\u{2AF}' | '\u{1E00}'..='\u{1EFF}' if c.is_uppercase() => 29,
        '\u{80}'..='\u{2AF}' | '\u{1E00}'..='\u{1EFF}' => 62,
        c if is_its_own_word(c) => 63,
        _ => 64,
    }
}

/// The character of the table that stands for 0; each further one in ASCII is a tenth of a bit more.
const ZERO: u8 = b'P';

/// How much more often the column's sort follows the row's in noise than in texts. Derived from the held-in part
/// of `core/tests/verdict_corpus` by `pairs/tests.rs`, which fails with the new table when the corpus changes.
#[rustfmt::skip]
const TABLE: [&str; SORTS] = [
    r"NV(c[V\gIsxl[\c[sgTxnYloRdTxd?xx(xxxx(F5+;:YSKx.WxN>X(xxU(=((xxR]i",
    r"/M8PQXUUSTRNZUY_V\V]UTU^RaVVZUgL8GqIG8(H:?-A(PN;9EWUB(__XIA1CNdQRZ",
    r"(QQS@DJLHkixorqkdmkivxpxko(Ejf(SvfZxhx1vt(6(RHZ1onxvrpA;bxxxcxxxxx",
    r"(D,SOVUPOWTZUVTXPxTJPKSTGUQXIV(aYXk\(M(xW(O0N((AYM((WRUiZMQ.(xKxxx",
    r"(U(USNUNXnhKmfRiXKxfC\iZxuLUxIT\]xo`xx1bx(]-(J(Q9(]r[WY(^QUUxn@vsx",
    r"(U(LELOVEVN>gYWsuTuVDd\Pkip^ILM7WxhZQAFxK(MEA-(KWxUUTPSg(K(x(xUuqx",
    r"(G0NTQUWF0\Uaf]h[RrxNU`_xicVFW(DxYl](<B_=(Q(x7OX(((oYTxxLB(E*kExxx",
    r"(G2VPZPPQNSSHO^OP[VSQTOMSSOXEW(?xTg(GH:xT(H9(3;x(@^j1OT(7D(w(xXxxx",
    r"(M(RLLCUT^aPbnQfTVglQ_YRnlt[xRP1Zxk\(?(+X(`(((PMYxxnx(xiA((QUjHkrx",
    r"(PLKm[gHqgTKGxQgKQ[dMORTxxxRaPxZxSgxT((xS(L((DKx7SUjxx=eDIMwxf3xxx",
    r"(TMNYo_GxOnPN^T`OQUxOUVWS[cWhYNGXVi[VL/\R>NIK((xX(XmxQTx(xPxTxExxx",
    r"(LGPYN@LNR\YNJ[QNXRQWLMXT`_U^V(`xViZR.(\((A(V=(xXK(lUx;((KxxxxQxxx",
    r"(]KCY[dRmbUHjceIQ<gc`dTPZxpgxB(rxSgXPI,xx4j@(KKIUwxjSN(eVIMMxe6nex",
    r"WU@Pi\UNb][JSFBnWFe]STH?]VHgxTK(TxfW(?CX((q7(I(((?SixNCdU?xLxe>vsx",
    r"(RIKMdJVVE[HYBLaMO_abOTNRMhNxNIp*QdV(7Qxx(C((;I(H(SgxL(c(JKtxcMxxx",
    r"(QCJUndQx]xMZ]ROOOQQVIWPg`mWxMIGRPdUG7=xv(Y2(qGFVAAxPKNb(rJsxbDxxx",
    r"(J`R]RJQTOIUQPec9IYxxQUZ_Xj[T](CxVi(C9()x(`:(((;V3(lx(`x;L(xGxPxxx",
    r"CELVATQ`DT`SRGMQS^PlSNMPSVVLQMUUxTh(.x(ZK(.@I(T/V(UkTPRfUcNNUgQxwx",
    r"(T8KqeTQhxSMgOQ\VPUxLOUJxWabxR(QxPxUGF=(((H;(IH(Rtxg(xNxxYJsxb5tlx",
    r"(SAAVV]U[`R\`gWhYUnxKN\KS\PWW*EMNLxQIBixr-NAADDBNBNcLHJ^OBFFJx7NX\",
    r"0I,K4MQSbR`N^QbZNW\\eJNRW\xVLT(TxTxXTM(x*(L80(6=T9UxxOJx(QMx5fNxxx",
    r"EELTmNxUicPTRJEYdV\VY[NPXVg^X\(9xxiZ(E,CQ(O(B/(x`O(x:VPxD=xxAxVxxx",
    r"*NPNu\_MdkNR_uL`UGiiSOQSs[`JHZCExUxY@49UK(2<(O(8UKO(_x(g4NKN(xPxxx",
    r"(LGRHROYRMMFbLQSJ][EHRUVXZjTdN(NUSxXFIpY)(a2(@x(xH(jxNQx(uxMxeLffx",
    r"(V@G_xfThIgKJYIeIGflMcu?Zb^YxMKSTRfxOHIXN8q0(((HTRTiRMPdxHLvxe.rax",
    r"(PAJJvRHxRMGEfS]eHOxZNa]]hUsOOFOPNaRJ(DT((N+CEFDPCOdMI(`(CGqK`=tex",
    r"(a(KGZHSKxxbTxpWvc_xtxbhsxxlv^^uhfxkx\(l<P@,6=(x:xhx;a0(h9`x(xQxxx",
    r"(T>SP^_H`QmXdRLWR7SxZXO^_xmmQS((xPcUG(7Vv(Q>((H(.((gGxNbR(J(Nb<xxx",
    r"(M;KwT\S_]D@xwvSQKU_TtRFVHmQdIH3RxcUMFmV((QE(HHwut(xOKZbRrJJNb?ch`",
    r"(WCLMKRNPNFQBFRULNT?PELANR=F;Rxbx=xgbOKx@7?PBDNxM[WxPxUxLWWtZxQxxx",
    r"(1=_[bMi_c`axdqfabfjVabcEi:ffwPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPbCcP",
    r"(H0T>Q:PL0IS`</^7,KhTR<R[fM<0JPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPv@UP",
    r">@(nW^A\1s\T_`tx]ibghZ^_AeKcbgPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP^kgP",
    r"(R:4-KrfQb]]_abs]JLgi0;nae(ccXPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPusgP",
    r"(F=NJ`?RNROPrSTUPQUxR[ZhSo>UU\PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPQLRP",
    r"(62`Si8al[XYx\]GdZ^b[YW[uxG^^oPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPZgUP",
    r",S_A/bFQ_BBZceTgaPwkTSLQe>xggGPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP>]kP",
    r"(b(<<T0V?DNBxl1;A[Y2G=CG0((\xNPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPidkP",
    r"->`txwtpejgxikxmrxxqxghxkxxxxgPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxctP",
    r"(>QMSYVat[kY[\i^VenbdCmj\a2@^\PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPZU_P",
    r"(K(ssP_\`xbfxIgx_Jh2abf`x9;x^PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxplP",
    r"(A2xZWxxExxxxxoxxPxxxkxxxxlxx]PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPx^xP",
    r"(@(R*5NAE2^MZaL:AK`.JDWxxHW<KXPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPDtZP",
    r"(G(L(Yba9=^^2xZPaZSbc_VxYFWluiPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxSxP",
    r"(VFJ((PWEC@^(k6fNW`dVHIT6>84CSPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPMdtP",
    r"+:Db`vxsYxGJxixlFjkxcTTxbLullePPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPgrxP",
    r"(H`asdppaeucefhxcexmeudfxkRiivPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxxpP",
    r"(WSeD4KfMxCq(jYGY^epiVFijoU8BMPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxusP",
    r"(6ZQ4uIV[_]I_wnc]_LxRig``eLccOPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP^YgP",
    r"(;UobwdiedxrixlmrimqsghxkoVmxMPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxutP",
    r"(<WXTZggm\YZ\sM_YfOc\e[\ub+__nPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP[UfP",
    r"(S<W`P;IMQbMQRB=OQUYQAPR3W>UUUPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPKKP",
    r"*i*XYMlF7H_M;bMOQSeiWI`AbENexLPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPvusP",
    r"(_Fh(B)K6wsacxr2?x>xV==HT^PggxPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPbo]P",
    r"(MQmp`mbsb_`bxdu_auik`jbchNeevPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPwvfP",
    r"(O(?KRNSeSQQskVWQ]W[SQ[TmYiWWmPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPRMSP",
    r"(PMUC9@EBYE7x_S^JZ?eX/>KxA5YaLPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP]XXP",
    r"(ST[xWdfEjghxdl]UkdqXRe_xoVmmFPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPhcjP",
    r"(I/CJ`7laecRefFQYeYmtUCt>kriiXPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxqvP",
    r"(4Sq^eq]Jadbfgijdpxnoveugx=jjxPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPxxnP",
    r"(N_fXo\k\a^^abod^`dh`^_vxfMxdwPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPv[eP",
    r"(CRbKR^YOSPQSTVV\]VZSQRiTY?VVBPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPRMWP",
    r"(NbGQM@J>=HTBC_IPRMYARCEU_3M(x(UxUhYQq([x(V((LLJVJ(kxPxfWJNxRgGxxN",
    r"BjmxoxxxxtxxxxuxpxxxxxxxxxMxxx(c[ZmxVa_xx(x(OPRx[O(pxUxk\xxSWlxBxC",
    r"\Rsxxxxxxxxxxxxxxxxxxxxxxxxxxx(fxZm^xxvxx3W.mQROxxHpxUxk,xxxxlxxKH",
    r"(QCxxxxixvxxqiuxZxxxxxfxxkHLUbPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPx1?P",
];

#[cfg(test)]
mod tests;
