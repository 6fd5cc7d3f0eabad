"""UCF-101: 13,320 films of 101 actions, 320x240, mostly 25 fps.

    UCF-101/<Class>/v_<Class>_g<01..25>_c<01..>.avi
    ucfTrainTestlist/trainlist0{1,2,3}.txt    Class/v_Class_g08_c01.avi 1
    ucfTrainTestlist/testlist0{1,2,3}.txt     Class/v_Class_g01_c01.avi

Labels are numbered from 0 in the order of the classes' names, whatever classInd.txt says. Splits are "train1",
"test1" and so on; without one, all films are taken, each with all of its splits: "train1 test2 train3". File names
spell HandstandPushups as HandStandPushups.
"""

from pathlib import Path

from .sources import Listing, NoDataSet, Source, below, wanted

# In the order of classInd.txt, in which published networks number them: as `index`, but for capitals, so that Hammering
# comes before HammerThrow and JumpingJack before JumpRope.
CLASSES = tuple(
    """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
    BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag
    BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen
    Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering
    HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing
    JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking Knitting LongJump Lunges MilitaryParade Mixing
    MoppingFloor Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar
    PlayingPiano PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting
    RockClimbingIndoor RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving
    SoccerJuggling SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing
    ThrowDiscus TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
    """.split()  # noqa: SIM905
)
SPLITS = tuple(f"{kind}{number}" for number in "123" for kind in ("train", "test"))


def index(root: Path, split: str | None = None) -> Listing:
    films = wanted(root, "UCF-101")
    classes = tuple(sorted(path.name for path in films.iterdir() if path.is_dir()))
    paths = {path.removeprefix("UCF-101/"): path for path in below(root, films, (".avi",))}
    if not paths:
        raise NoDataSet(f"{films} has no films")
    if split is None:
        splits = dict.fromkeys(paths, "")
        for one in SPLITS:
            if (root / list_of(one)).exists():
                splits |= {name: f"{splits.get(name, '')} {one}".strip() for name in listed(root, one)}
    else:
        splits = dict.fromkeys(listed(root, split), split)
    there = sorted(name for name in splits if name in paths)
    return Listing(
        tuple(
            Source(Path(name).stem, paths[name], label=classes.index(name.split("/")[0]), split=splits[name] or None)
            for name in there
        ),
        {"class": classes},
        absent=len(splits) - len(there),
    )


def list_of(split: str) -> str:
    return f"ucfTrainTestlist/{split[:-1]}list0{split[-1]}.txt"


def listed(root: Path, split: str) -> list[str]:
    if split not in SPLITS:
        raise NoDataSet(f"UCF-101 has the splits train1 to train3 and test1 to test3, not {split!r}")
    lines = wanted(root, list_of(split)).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip()]
