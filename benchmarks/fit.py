"""``python -m benchmarks fit [STORE]``: does the fit of a hit tell what is in a store?

Asks the demo's store (made in a temporary folder without an argument) for 100 nouns that its media show, 100 classes
of the encoder that they do not show (a seeded choice), 100 everyday nouns that they do not show and that are no names
of classes, and 50 strings without meaning. Prints the area under the ROC curve of the best hit's fit and of its raw
score, and how many are refused: "nothing in this store fits".
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from cliploom.transforms.encoders.lite0 import class_names
from cliploom.transforms.index.fit import noise_strings
from cliploom.transforms.search.fit import fit_word
from cliploom.transforms.search.searching import Store, open_store

THERE = """\
cat;kitten;tabby;house cat;pet cat;feline;tomcat;kitty;domestic cat;tabby cat;pussycat;pet;coffee;espresso;cappuccino;
latte;cup of coffee;coffee cup;mug;coffee mug;cup;hot drink;teacup;black coffee;caffeine;cafe;beverage;macchiato;
motorcycle;motorbike;moped;scooter;motor scooter;motor vehicle;two-wheeler;motor;parked motorcycle;garage;rocket;
missile;rocket launch;spaceship;launch pad;space rocket;projectile;spacecraft;tie;necktie;suit;man in a suit;seat belt;
bow tie;businessman;car seat;temple;palace;pagoda;monastery;shrine;Chinese temple;building;architecture;Buddhist temple;
royal palace;oriental palace;flower;dahlia;daisy;blossom;petal;bloom;floret;orange flower;garden flower;chrysanthemum;
tripod;camera tripod;photographer;cameraman;bicycle;bike;pushbike;parked bicycle;cycle;wheel;tricycle;mountain bike;
astronaut;helmet;space helmet;crash helmet;spacesuit;brick;brick wall;bricks;page;text;document;rocket tower;
espresso cup"""
# Classes that the media show, or that somebody might say they show.
SHOWN = """\
tabby;tiger cat;Persian cat;Siamese cat;Egyptian cat;lynx;cougar;daisy;espresso;cup;coffee mug;coffeepot;espresso maker;
missile;projectile;moped;motor scooter;disk brake;tripod;palace;monastery;boathouse;unicycle;bicycle-built-for-two;
mountain bike;tricycle;Windsor tie;bow tie;bolo tie;suit;seat belt;crash helmet;football helmet;brass;maze;stone wall;
space shuttle;hare;wood rabbit;Angora;seashore;lakeside;reflex camera;Polaroid camera;pole;flagpole;streetcar;car wheel;
military uniform;book jacket;menu;crossword puzzle;web site;saltshaker;street sign;pot;vase;tile roof;bannister;
binoculars;lens cap;trench coat;crane;oxygen mask;mask;window screen;window shade;stupa;bell cote;church;mosque;castle;
prison;planetarium;thimble;bubble;alp;valley;fur coat;cloak;lab coat;racket;envelope;screen;television;monitor;velvet;
bee;hoopskirt;wool;paper towel;packet;notebook;rule;drilling platform;consomme;eggnog;table lamp;lampshade"""
EVERYDAY = """\
puppy;doggy;hound;airplane;jet;aircraft;laptop computer;smartphone;telephone;piano player;fruit;vegetable;meat;pasta;
noodles;soup;bread;fish;salmon;insect;butterfly wings;snake skin;reptile;bird;parakeet;sparrow;farm animal;cattle;pony;
foal;lamb;piglet;ape;chimp;elephant trunk;cub;primate;turtle;dinosaur;jellyfish;octopus;seafood;ocean liner;ship;boat;
yacht;train;locomotive;tram;bus;lorry;fire engine;aeroplane;helicopter;guitarist;violinist;trombone;drums;keyboard;
mouse;printer;television set;radio;headphones;sofa;couch;armchair;bookcase;wardrobe;desk;pillow;blanket;towel;soap;
toothbrush;perfume;lipstick;diaper;swimsuit;underwear;jeans;skirt;gloves;boots;running shoes;football;golf ball;skiing;
surfing;swimming pool;beach sand;coral;cliff;mountain;glacier;waterfall;bridge;lighthouse;windmill;barn"""
_NOISE_SEED = 7  # other strings than those that scales are measured with


def listed(text: str) -> list[str]:
    """Return the nouns of a list."""
    return [noun.strip() for noun in text.replace("\n", "").split(";")]


def auc(there: np.ndarray, absent: np.ndarray) -> float:
    """Area under the ROC curve: how often one of ``there`` is above one of ``absent``, ties by half."""
    above = there[:, None] > absent[None, :]
    return float((above + 0.5 * (there[:, None] == absent[None, :])).mean())


def best_hits(store: Store, queries: list[str], index: str) -> tuple[np.ndarray, np.ndarray]:
    """Fits and scores of the best hits, float64 [n] each."""
    hits = [store.search(query, index=[index], top=1)[0] for query in queries]
    return np.array([hit.fit for hit in hits], float), np.array([hit.score for hit in hits], float)


def demo_store(folder: Path) -> Path:
    """Return the demo, run."""
    from cliploom.pipelines.demo.make import write_demo
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    write_demo(folder)
    document = load_document(folder / "cliploom.yaml", ())
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    return folder / "store"


def main(arguments: list[str]) -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(arguments[0] if arguments else str(demo_store(Path(folder))))
        names = [synonyms[0] for synonyms in class_names()]
        free = sorted(set(names) - set(listed(SHOWN)))
        groups = {
            "classes that are not there": random.Random(1).sample(free, 100),
            "everyday nouns that are not there": listed(EVERYDAY),
            "strings without meaning": noise_strings(50, _NOISE_SEED),
        }
        index = next(iter(store.release.indexes))
        there, there_raw = best_hits(store, listed(THERE), index)
        print(f"{len(there)} nouns that are there: {np.mean([fit_word([fit]) == 'none' for fit in there]):.0%} refused")
        for name, queries in groups.items():
            fits, raw = best_hits(store, queries, index)
            refused = np.mean([fit_word([fit]) == "none" for fit in fits])
            print(
                f"{len(queries)} {name}: ROC AUC {auc(there, fits):.3f} (of the raw score {auc(there_raw, raw):.3f}), "
                f"{refused:.0%} refused"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
