// The instructions that the translator copies to the host, by the decoder's names. What is not here is never
// executed by the host's processor as the guest wrote it: it has a form of its own, or is interpreted.
//
// All of them touch no more than the registers and the one memory operand that the decoder names, run at CPL
// 3, and do the same on Intel and AMD processors. tests/unit/bt_copies runs them.
#include "engine/bt/copy_list.hpp"

#include <array>
#include <unordered_map>

namespace vert::bt {

namespace {

constexpr std::array kGroups = {
    // Integer instructions that every x86-64 processor has.
    CopyGroup{{.steady = true, .settles_flags = true}, "and imul mul or sar shl shr test xor"},
    CopyGroup{{.steady = true, .keeps_target = true}, "bsf bsr"},
    CopyGroup{
        {.steady = true},
        "adc add bswap bt btc btr bts cbw cdq cdqe clc cmc cmovb cmovbe cmovl cmovle cmovnb cmovnbe cmovnl "
        "cmovnle cmovno cmovnp cmovns cmovnz cmovo cmovp cmovs cmovz cmp cmpxchg cqo cwd cwde dec inc lahf "
        "mov movsx movsxd movzx neg not rcl rcr rol ror sahf sbb setb setbe setl setle setnb setnbe "
        "setnl setnle setno setnp setns setnz seto setp sets setz shld shrd stc sub xadd xchg"},
    // Those that fault by their values, or that not every processor has.
    CopyGroup{{}, "div idiv"},
    CopyGroup{
        {},
        "adcx adox andn bextr blsi blsmsk blsr bzhi cmpxchg16b cmpxchg8b lzcnt movbe mulx pdep pext popcnt "
        "rdrand rdseed rorx sarx shlx shrx tzcnt"},
    // x87.
    CopyGroup{
        {},
        "f2xm1 fabs fadd faddp fbld fbstp fchs fcmovb fcmovbe fcmove fcmovnb fcmovnbe fcmovne fcmovnu fcmovu "
        "fcom fcomi fcomip fcomp fcompp fcos fdecstp fdiv fdivp fdivr fdivrp ffree ffreep fiadd ficom ficomp "
        "fidiv fidivr fild fimul fincstp fist fistp fisttp fisub fisubr fld fld1 fldcw fldl2e fldl2t fldlg2 "
        "fldln2 fldpi fldz fmul fmulp fnclex fninit fnop fnstcw fnstsw fpatan fprem fprem1 fptan frndint "
        "fscale fsin fsincos fsqrt fst fstp fsub fsubp fsubr fsubrp ftst fucom fucomi fucomip fucomp fucompp "
        "fwait fxam fxch fxtract fyl2x fyl2xp1"},
    // MMX, and SSE with its extensions.
    CopyGroup{
        {},
        "addpd addps addsd addss addsubpd addsubps aesdec aesdeclast aesenc aesenclast aesimc "
        "aeskeygenassist "
        "andnpd andnps andpd andps blendpd blendps blendvpd blendvps cmppd cmpps cmpsd cmpss comisd comiss "
        "crc32 cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2pi cvtpd2ps cvtpi2pd cvtpi2ps cvtps2dq cvtps2pd cvtps2pi "
        "cvtsd2si cvtsd2ss cvtsi2sd cvtsi2ss cvtss2sd cvtss2si cvttpd2dq cvttpd2pi cvttps2dq cvttps2pi "
        "cvttsd2si cvttss2si divpd divps divsd divss dppd dpps emms extractps gf2p8affineinvqb gf2p8affineqb "
        "gf2p8mulb haddpd haddps hsubpd hsubps insertps lddqu ldmxcsr lfence maxpd maxps maxsd maxss mfence "
        "minpd minps minsd minss movapd movaps movd movddup movdq2q movdqa movdqu movhlps movhpd movhps "
        "movlhps movlpd movlps movmskpd movmskps movntdq movntdqa movnti movntpd movntps movntq movq movq2dq "
        "movsd movshdup movsldup movss movupd movups mpsadbw mulpd mulps mulsd mulss orpd orps pabsb pabsd "
        "pabsw packssdw packsswb packusdw packuswb paddb paddd paddq paddsb paddsw paddusb paddusw paddw "
        "palignr pand pandn pavgb pavgw pblendvb pblendw pclmulqdq pcmpeqb pcmpeqd pcmpeqq pcmpeqw pcmpestri "
        "pcmpestrm pcmpgtb pcmpgtd pcmpgtq pcmpgtw pcmpistri pcmpistrm pextrb pextrd pextrq pextrw phaddd "
        "phaddsw phaddw phminposuw phsubd phsubsw phsubw pinsrb pinsrd pinsrq pinsrw pmaddubsw pmaddwd "
        "pmaxsb "
        "pmaxsd pmaxsw pmaxub pmaxud pmaxuw pminsb pminsd pminsw pminub pminud pminuw pmovmskb pmovsxbd "
        "pmovsxbq pmovsxbw pmovsxdq pmovsxwd pmovsxwq pmovzxbd pmovzxbq pmovzxbw pmovzxdq pmovzxwd pmovzxwq "
        "pmuldq pmulhrsw pmulhuw pmulhw pmulld pmullw pmuludq por psadbw pshufb pshufd pshufhw pshuflw "
        "pshufw "
        "psignb psignd psignw pslld pslldq psllq psllw psrad psraw psrld psrldq psrlq psrlw psubb psubd "
        "psubq "
        "psubsb psubsw psubusb psubusw psubw ptest punpckhbw punpckhdq punpckhqdq punpckhwd punpcklbw "
        "punpckldq punpcklqdq punpcklwd pxor rcpps rcpss roundpd roundps roundsd roundss rsqrtps rsqrtss "
        "sfence sha1msg1 sha1msg2 sha1nexte sha1rnds4 sha256msg1 sha256msg2 sha256rnds2 shufpd shufps sqrtpd "
        "sqrtps sqrtsd sqrtss stmxcsr subpd subps subsd subss ucomisd ucomiss unpckhpd unpckhps unpcklpd "
        "unpcklps xorpd xorps"},
    // AVX-512's mask registers.
    CopyGroup{
        {},
        "kaddb kaddd kaddq kaddw kandb kandd kandnb kandnd kandnq kandnw kandq kandw kmovb kmovd kmovq kmovw "
        "knotb knotd knotq knotw korb kord korq kortestb kortestd kortestq kortestw korw kshiftlb kshiftld "
        "kshiftlq kshiftlw kshiftrb kshiftrd kshiftrq kshiftrw ktestb ktestd ktestq ktestw kunpckbw kunpckdq "
        "kunpckwd kxnorb kxnord kxnorq kxnorw kxorb kxord kxorq kxorw"},
    // AVX, AVX2 and AVX-512: multiplications with additions, FP16, and all others.
    CopyGroup{
        {},
        "vfmadd132pd vfmadd132ps vfmadd132sd vfmadd132ss vfmadd213pd vfmadd213ps vfmadd213sd vfmadd213ss "
        "vfmadd231pd vfmadd231ps vfmadd231sd vfmadd231ss vfmaddsub132pd vfmaddsub132ps vfmaddsub213pd "
        "vfmaddsub213ps vfmaddsub231pd vfmaddsub231ps vfmsub132pd vfmsub132ps vfmsub132sd vfmsub132ss "
        "vfmsub213pd vfmsub213ps vfmsub213sd vfmsub213ss vfmsub231pd vfmsub231ps vfmsub231sd vfmsub231ss "
        "vfmsubadd132pd vfmsubadd132ps vfmsubadd213pd vfmsubadd213ps vfmsubadd231pd vfmsubadd231ps "
        "vfnmadd132pd vfnmadd132ps vfnmadd132sd vfnmadd132ss vfnmadd213pd vfnmadd213ps vfnmadd213sd "
        "vfnmadd213ss vfnmadd231pd vfnmadd231ps vfnmadd231sd vfnmadd231ss vfnmsub132pd vfnmsub132ps "
        "vfnmsub132sd vfnmsub132ss vfnmsub213pd vfnmsub213ps vfnmsub213sd vfnmsub213ss vfnmsub231pd "
        "vfnmsub231ps vfnmsub231sd vfnmsub231ss"},
    CopyGroup{
        {},
        "vaddph vaddsh vcmpph vcmpsh vcomish vcvtdq2ph vcvtpd2ph vcvtph2dq vcvtph2pd vcvtph2psx vcvtph2qq "
        "vcvtph2udq vcvtph2uqq vcvtph2uw vcvtph2w vcvtps2phx vcvtqq2ph vcvtsd2sh vcvtsh2sd vcvtsh2si "
        "vcvtsh2ss vcvtsh2usi vcvtsi2sh vcvtss2sh vcvttph2dq vcvttph2qq vcvttph2udq vcvttph2uqq vcvttph2uw "
        "vcvttph2w vcvttsh2si vcvttsh2usi vcvtudq2ph vcvtuqq2ph vcvtusi2sh vcvtuw2ph vcvtw2ph vdivph vdivsh "
        "vfcmaddcph vfcmaddcsh vfcmulcph vfcmulcsh vfmadd132ph vfmadd132sh vfmadd213ph vfmadd213sh "
        "vfmadd231ph vfmadd231sh vfmaddcph vfmaddcsh vfmaddsub132ph vfmaddsub213ph vfmaddsub231ph "
        "vfmsub132ph "
        "vfmsub132sh vfmsub213ph vfmsub213sh vfmsub231ph vfmsub231sh vfmsubadd132ph vfmsubadd213ph "
        "vfmsubadd231ph vfmulcph vfmulcsh vfnmadd132ph vfnmadd132sh vfnmadd213ph vfnmadd213sh vfnmadd231ph "
        "vfnmadd231sh vfnmsub132ph vfnmsub132sh vfnmsub213ph vfnmsub213sh vfnmsub231ph vfnmsub231sh "
        "vfpclassph vfpclasssh vgetexpph vgetexpsh vgetmantph vgetmantsh vmaxph vmaxsh vminph vminsh vmovsh "
        "vmovw vmulph vmulsh vrcpph vrcpsh vreduceph vreducesh vrndscaleph vrndscalesh vrsqrtph vrsqrtsh "
        "vscalefph vscalefsh vsqrtph vsqrtsh vsubph vsubsh vucomish"},
    CopyGroup{
        {},
        "vaddpd vaddps vaddsd vaddss vaddsubpd vaddsubps vaesdec vaesdeclast vaesenc vaesenclast vaesimc "
        "vaeskeygenassist valignd valignq vandnpd vandnps vandpd vandps vblendmpd vblendmps vblendpd "
        "vblendps "
        "vblendvpd vblendvps vbroadcastf128 vbroadcastf32x2 vbroadcastf32x4 vbroadcastf32x8 vbroadcastf64x2 "
        "vbroadcastf64x4 vbroadcasti128 vbroadcasti32x2 vbroadcasti32x4 vbroadcasti32x8 vbroadcasti64x2 "
        "vbroadcasti64x4 vbroadcastsd vbroadcastss vcmppd vcmpps vcmpsd vcmpss vcomisd vcomiss vcompresspd "
        "vcompressps vcvtdq2pd vcvtdq2ps vcvtne2ps2bf16 vcvtneps2bf16 vcvtpd2dq vcvtpd2ps vcvtpd2qq "
        "vcvtpd2udq vcvtpd2uqq vcvtph2ps vcvtps2dq vcvtps2pd vcvtps2ph vcvtps2qq vcvtps2udq vcvtps2uqq "
        "vcvtqq2pd vcvtqq2ps vcvtsd2si vcvtsd2ss vcvtsd2usi vcvtsi2sd vcvtsi2ss vcvtss2sd vcvtss2si "
        "vcvtss2usi vcvttpd2dq vcvttpd2qq vcvttpd2udq vcvttpd2uqq vcvttps2dq vcvttps2qq vcvttps2udq "
        "vcvttps2uqq vcvttsd2si vcvttsd2usi vcvttss2si vcvttss2usi vcvtudq2pd vcvtudq2ps vcvtuqq2pd "
        "vcvtuqq2ps vcvtusi2sd vcvtusi2ss vdbpsadbw vdivpd vdivps vdivsd vdivss vdpbf16ps vdppd vdpps "
        "vexpandpd vexpandps vextractf128 vextractf32x4 vextractf32x8 vextractf64x2 vextractf64x4 "
        "vextracti128 vextracti32x4 vextracti32x8 vextracti64x2 vextracti64x4 vextractps vfixupimmpd "
        "vfixupimmps vfixupimmsd vfixupimmss vfpclasspd vfpclassps vfpclasssd vfpclassss vgetexppd vgetexpps "
        "vgetexpsd vgetexpss vgetmantpd vgetmantps vgetmantsd vgetmantss vgf2p8affineinvqb vgf2p8affineqb "
        "vgf2p8mulb vhaddpd vhaddps vhsubpd vhsubps vinsertf128 vinsertf32x4 vinsertf32x8 vinsertf64x2 "
        "vinsertf64x4 vinserti128 vinserti32x4 vinserti32x8 vinserti64x2 vinserti64x4 vinsertps vlddqu "
        "vldmxcsr vmaskmovpd vmaskmovps vmaxpd vmaxps vmaxsd vmaxss vminpd vminps vminsd vminss vmovapd "
        "vmovaps vmovd vmovddup vmovdqa vmovdqa32 vmovdqa64 vmovdqu vmovdqu16 vmovdqu32 vmovdqu64 vmovdqu8 "
        "vmovhlps vmovhpd vmovhps vmovlhps vmovlpd vmovlps vmovmskpd vmovmskps vmovntdq vmovntdqa vmovntpd "
        "vmovntps vmovq vmovsd vmovshdup vmovsldup vmovss vmovupd vmovups vmpsadbw vmulpd vmulps vmulsd "
        "vmulss vorpd vorps vp2intersectd vp2intersectq vpabsb vpabsd vpabsq vpabsw vpackssdw vpacksswb "
        "vpackusdw vpackuswb vpaddb vpaddd vpaddq vpaddsb vpaddsw vpaddusb vpaddusw vpaddw vpalignr vpand "
        "vpandd vpandn vpandnd vpandnq vpandq vpavgb vpavgw vpblendd vpblendmb vpblendmd vpblendmq vpblendmw "
        "vpblendvb vpblendw vpbroadcastb vpbroadcastd vpbroadcastmb2q vpbroadcastmw2d vpbroadcastq "
        "vpbroadcastw vpclmulqdq vpcmpb vpcmpd vpcmpeqb vpcmpeqd vpcmpeqq vpcmpeqw vpcmpestri vpcmpestrm "
        "vpcmpgtb vpcmpgtd vpcmpgtq vpcmpgtw vpcmpistri vpcmpistrm vpcmpq vpcmpub vpcmpud vpcmpuq vpcmpuw "
        "vpcmpw vpcompressb vpcompressd vpcompressq vpcompressw vpconflictd vpconflictq vpdpbusd vpdpbusds "
        "vpdpwssd vpdpwssds vperm2f128 vperm2i128 vpermb vpermd vpermi2b vpermi2d vpermi2pd vpermi2ps "
        "vpermi2q vpermi2w vpermilpd vpermilps vpermpd vpermps vpermq vpermt2b vpermt2d vpermt2pd vpermt2ps "
        "vpermt2q vpermt2w vpermw vpexpandb vpexpandd vpexpandq vpexpandw vpextrb vpextrd vpextrq vpextrw "
        "vphaddd vphaddsw vphaddw vphminposuw vphsubd vphsubsw vphsubw vpinsrb vpinsrd vpinsrq vpinsrw "
        "vplzcntd vplzcntq vpmadd52huq vpmadd52luq vpmaddubsw vpmaddwd vpmaskmovd vpmaskmovq vpmaxsb vpmaxsd "
        "vpmaxsq vpmaxsw vpmaxub vpmaxud vpmaxuq vpmaxuw vpminsb vpminsd vpminsq vpminsw vpminub vpminud "
        "vpminuq vpminuw vpmovb2m vpmovd2m vpmovdb vpmovdw vpmovm2b vpmovm2d vpmovm2q vpmovm2w vpmovmskb "
        "vpmovq2m vpmovqb vpmovqd vpmovqw vpmovsdb vpmovsdw vpmovsqb vpmovsqd vpmovsqw vpmovswb vpmovsxbd "
        "vpmovsxbq vpmovsxbw vpmovsxdq vpmovsxwd vpmovsxwq vpmovusdb vpmovusdw vpmovusqb vpmovusqd vpmovusqw "
        "vpmovuswb vpmovw2m vpmovwb vpmovzxbd vpmovzxbq vpmovzxbw vpmovzxdq vpmovzxwd vpmovzxwq vpmuldq "
        "vpmulhrsw vpmulhuw vpmulhw vpmulld vpmullq vpmullw vpmultishiftqb vpmuludq vpopcntb vpopcntd "
        "vpopcntq vpopcntw vpor vpord vporq vprold vprolq vprolvd vprolvq vprord vprorq vprorvd vprorvq "
        "vpsadbw vpshldd vpshldq vpshldvd vpshldvq vpshldvw vpshldw vpshrdd vpshrdq vpshrdvd vpshrdvq "
        "vpshrdvw vpshrdw vpshufb vpshufbitqmb vpshufd vpshufhw vpshuflw vpsignb vpsignd vpsignw vpslld "
        "vpslldq vpsllq vpsllvd vpsllvq vpsllvw vpsllw vpsrad vpsraq vpsravd vpsravq vpsravw vpsraw vpsrld "
        "vpsrldq vpsrlq vpsrlvd vpsrlvq vpsrlvw vpsrlw vpsubb vpsubd vpsubq vpsubsb vpsubsw vpsubusb "
        "vpsubusw "
        "vpsubw vpternlogd vpternlogq vptest vptestmb vptestmd vptestmq vptestmw vptestnmb vptestnmd "
        "vptestnmq vptestnmw vpunpckhbw vpunpckhdq vpunpckhqdq vpunpckhwd vpunpcklbw vpunpckldq vpunpcklqdq "
        "vpunpcklwd vpxor vpxord vpxorq vrangepd vrangeps vrangesd vrangess vrcp14pd vrcp14ps vrcp14sd "
        "vrcp14ss vrcpps vrcpss vreducepd vreduceps vreducesd vreducess vrndscalepd vrndscaleps vrndscalesd "
        "vrndscaless vroundpd vroundps vroundsd vroundss vrsqrt14pd vrsqrt14ps vrsqrt14sd vrsqrt14ss "
        "vrsqrtps "
        "vrsqrtss vscalefpd vscalefps vscalefsd vscalefss vshuff32x4 vshuff64x2 vshufi32x4 vshufi64x2 "
        "vshufpd "
        "vshufps vsqrtpd vsqrtps vsqrtsd vsqrtss vstmxcsr vsubpd vsubps vsubsd vsubss vtestpd vtestps "
        "vucomisd vucomiss vunpckhpd vunpckhps vunpcklpd vunpcklps vxorpd vxorps vzeroall vzeroupper"},
};

/// By mnemonic, numbers of kGroups and 1; 0: not copied.
using Table = std::array<u8, ZYDIS_MNEMONIC_MAX_VALUE + 1>;

Table make_table() {
  std::unordered_map<std::string_view, u8> groups;
  for (std::size_t i = 0; i < kGroups.size(); ++i)
    for_each_name(kGroups[i], [&](std::string_view name) { groups[name] = static_cast<u8>(i + 1); });
  Table table{};
  for (int i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; ++i) {
    const auto found = groups.find(ZydisMnemonicGetString(static_cast<ZydisMnemonic>(i)));
    if (found != groups.end()) table[static_cast<std::size_t>(i)] = found->second;
  }
  return table;
}

}  // namespace

std::span<const CopyGroup> copy_groups() { return kGroups; }

const CopyRule* copy_rule(ZydisMnemonic mnemonic) {
  static const Table kTable = make_table();
  const u8 group = kTable[mnemonic];
  return group == 0 ? nullptr : &kGroups[group - 1U].rule;
}

}  // namespace vert::bt
